"""The judgement of a trace must be able to fail: one early answer each. Run: python3 -m unittest"""

import unittest

import check
import sync_before_ack
from sync_before_ack import BATCH_RECORDS, ENTRY, ITEM, Event

CONNECTION, JOURNAL, ANSWER_BYTES = (7, 1.0), 5, 50
# At position 0 the entry of the first batch, at 512 that of the second.
ENTRIES = {JOURNAL: {0: [(b"t", BATCH_RECORDS)], 512: [(b"t", 2 * BATCH_RECORDS)]}}


def write(position):
    return Event("write", JOURNAL, position, 512)


def sync(key, fd=JOURNAL):
    return Event("sync", fd, key, None)


def synced(key, error=0):
    return Event("synced", None, key, error)


def send(answers=1, connection=CONNECTION):
    return Event("send", connection, None, int(answers * ANSWER_BYTES))


class Order(unittest.TestCase):
    def judge(self, *events):
        return sync_before_ack.covered(events, ENTRIES, {CONNECTION: b"t"}, {CONNECTION: ANSWER_BYTES})

    def refuses(self, *events):
        with self.assertRaisesRegex(check.Violation, "answer [12] left when [01] batches were durable"):
            self.judge(*events)

    def test_accepts_answers_behind_syncs(self):
        self.assertEqual(self.judge(write(0), sync(1), synced(1), send(), write(512), sync(2), synced(2), send()), (2, 2))
        self.assertEqual(self.judge(write(0), write(512), sync(1), synced(1), send(2)), (1, 2))
        self.assertEqual(self.judge(send(9, (8, 1.0))), (0, 0))

    def test_refuses_an_answer_before_its_sync_has_completed(self):
        self.refuses(write(0), sync(1), send(), synced(1))
        self.refuses(write(0), sync(1), synced(1), send(1.1))

    def test_refuses_a_sync_that_began_before_the_write(self):
        self.refuses(sync(1), write(0), synced(1), send())
        self.refuses(write(0), sync(1), write(512), synced(1), send(), send())

    def test_refuses_a_sync_that_failed_or_was_of_another_file(self):
        self.refuses(write(0), sync(1), synced(1, -5), send())
        self.refuses(write(0), sync(1, fd=6), synced(1), send())

    def test_refuses_a_write_whose_bytes_were_not_yet_the_entry(self):
        self.refuses(write(0), sync(1), synced(1), send(), write(0))


class Reading(unittest.TestCase):
    def test_parses_what_the_kernel_prints(self):
        events = sync_before_ack.parse([
            "# tracer: nop\n",
            " kariz-core-0-31  [000] ..... 1.5: sys_accept4(fd: 9, addr: 0x7f, addr_len: 0x7f, flags: 0x800)\n",
            " kariz-core-0-31  [000] ..... 2.5: sys_accept4 -> 0xa\n",
            " kariz-core-0-31  [000] ..... 3.1: sys_pwritev(fd: 5, vec: 0x7f, vlen: 1, pos_l: 0x2200, pos_h: 0)\n",
            " kariz-core-0-31  [000] ..... 3.2: sys_pwritev -> 0x200\n",
            " kariz-core-0-31  [000] ..... 3.3: io_uring_submit_req: ring 00ab, req 00cd, user_data 0x1f, "
            "opcode FSYNC, flags 0x0, sq_thread 0\n",
            " iou-wrk-31-40  [001] ..... 3.4: io_uring_file_get: ring 00ab, req 00cd, user_data 0x1f, fd 5\n",
            " kariz-core-0-31  [000] ..... 3.5: io_uring_complete: ring 00ab, req 00cd, user_data 0x1f, "
            "result -5, cflags 0x0 extra1 0 extra2 0 \n",
            " kariz-core-0-31  [000] ..... 4.1: sys_sendto(fd: 0xa, buff: 0x7f, len: 0x32, flags: 0x4040)\n",
            " kariz-core-1-32  [001] ..... 4.2: sys_pwrite64(fd: 0x11, buf: 0x7f, count: 3, pos: 0)\n",
            " kariz-core-0-31  [000] ..... 4.3: sys_sendto -> 0x32\n",
            " kariz-core-1-32  [001] ..... 4.4: sys_pwrite64 -> 0xffffffffffffffe4\n",
        ])
        self.assertEqual(events, [
            Event("open", (10, 2.5), None, None), Event("write", 5, 0x2200, 0x200),
            Event("sync", 5, ("00ab", "0x1f"), None), Event("synced", None, ("00ab", "0x1f"), -5),
            Event("send", (10, 2.5), None, 0x32)])

    def test_refuses_what_it_cannot_judge(self):
        with self.assertRaisesRegex(check.Violation, "cannot be judged"):
            sync_before_ack.parse([" k-31  [000] ..... 3.3: io_uring_submit_req: ring 00ab, req 00cd, "
                                   "user_data 0x1f, opcode SEND, flags 0x0, sq_thread 0\n"])

    def test_reads_a_journal(self):
        def item(kind, end, bytes_):
            return ITEM.pack(b"t" * 16, 0, kind, 0, end - 3, end, 0, 0, len(bytes_)) + bytes_
        items = item(0, 3, b"abc") + item(1, 9, b"") + item(0, 6, b"")
        entry = ENTRY.pack(b"KZJE", 0, 1, 1, len(items), 3) + items
        found = sync_before_ack.journal(bytes(1024) + entry.ljust(512, b"\0") + bytes(512))
        self.assertEqual(found, {1024: [(b"t" * 16, 3), (b"t" * 16, 6)]})


if __name__ == "__main__":
    unittest.main()
