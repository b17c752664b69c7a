"""The checks must be able to fail: one broken promise each. Run: python3 -m unittest"""

import pathlib
import tempfile
import unittest

import check

SENT = [(b"k%d" % (i % 2), b"%08d" % i) for i in range(6)]
# Even records in partition 0, odd ones in partition 1.
READ = [(i % 2, i // 2, *SENT[i]) for i in range(6)]


def verdict(read, start=0):
    lines = [b"%d\t%d\t%s\t%s\n" % record for record in read]
    return check.records(lines, SENT, start, same_key_same_partition=True)


class Records(unittest.TestCase):
    def refuses(self, read, why):
        with self.assertRaisesRegex(check.Violation, why):
            verdict(read)

    def test_accepts_what_was_sent(self):
        self.assertEqual(verdict(READ), {0: 3, 1: 3})
        self.assertEqual(verdict(READ[2:], start=1), {0: 3, 1: 3})

    def test_refuses_loss_at_the_end(self):
        self.refuses(READ[:-1], "1 records missing, the first is 5")

    def test_refuses_a_gap(self):
        self.refuses(READ[:2] + READ[3:], "partition 0 offset 2: expected offset 1")

    def test_refuses_a_duplicate(self):
        self.refuses(READ + [(0, 3, *SENT[4])], "record 4 a second time")

    def test_refuses_another_order(self):
        self.refuses([(0, 0, *SENT[2]), (0, 1, *SENT[0])], "record 0 after 2")

    def test_refuses_other_bytes(self):
        self.refuses([(0, 0, b"k1", SENT[0][1])], "nobody wrote b'k1'")

    def test_refuses_a_key_in_two_partitions(self):
        self.refuses(READ[:2] + [(1, 1, *SENT[2])], "key b'k0' is in partition 0 too")


def batch(base, count, codec=1, producer=7, sequence=0, magic=2, body=b"r" * 5):
    length = check.HEADER.size - check.UNCOUNTED + len(body)
    return check.HEADER.pack(base, length, 0, magic, 0, codec, count - 1, 0, 0,
                             producer, 0, sequence, count) + body


GOOD = [batch(0, 3), batch(3, 2, sequence=3)]


class Segments(unittest.TestCase):
    def walk(self, *batches, ends=5):
        with tempfile.TemporaryDirectory() as data:
            home = pathlib.Path(data, "broker-256", "t-0")
            home.mkdir(parents=True)
            (home / "00000000000000000000.log").write_bytes(b"".join(batches))
            check.segments(pathlib.Path(data), "t", 1, "gzip", True, {0: ends})

    def refuses(self, *batches, why, ends=5):
        with self.assertRaisesRegex(check.Violation, why):
            self.walk(*batches, ends=ends)

    def test_accepts_whole_batches(self):
        self.walk(*GOOD)

    def test_refuses_another_codec(self):
        self.refuses(batch(0, 3, codec=0), why="codec none, written with gzip")
        self.refuses(batch(0, 1, codec=2), why="codec snappy, written with gzip", ends=1)

    def test_accepts_a_record_alone_that_was_not_compressed(self):
        self.walk(batch(0, 4), batch(4, 1, sequence=4, codec=0))
        self.refuses(batch(0, 4), batch(4, 1, sequence=4, codec=0, body=b"r" * 200),
                     why="codec none, written with gzip")
        self.refuses(batch(0, 1, codec=0), why="no batch in gzip", ends=1)

    def test_refuses_a_torn_tail(self):
        self.refuses(*GOOD, GOOD[0][:-1], why="batch length")
        self.refuses(*GOOD, b"\0" * 9, why="9 bytes are no batch")

    def test_refuses_trailing_zeros(self):
        self.refuses(*GOOD, b"\0" * 4096, why="batch length 0")

    def test_refuses_an_offset_gap(self):
        self.refuses(GOOD[0], batch(4, 1, sequence=3), why=r"base 4 \(expected 3\)")

    def test_refuses_a_sequence_gap(self):
        self.refuses(GOOD[0], batch(3, 2, sequence=4), why="sequence 4, expected 3")

    def test_refuses_records_without_a_producer(self):
        self.refuses(batch(0, 5, producer=-1), why="producer -1")

    def test_refuses_a_log_longer_than_what_was_read(self):
        self.refuses(*GOOD, ends=4, why="log ends at 5, its readers at 4")


if __name__ == "__main__":
    unittest.main()
