"""What must hold for a topic: what a client read back, and what lies in its segments.

The segment walk decodes batch headers by itself, so it shares no code with the server
that wrote them nor with the clients.
"""

import pathlib
import struct

CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]  # by attribute bits 0-2

# RecordBatch v2 up to and including the record count, big-endian: base offset, length,
# leader epoch, magic, CRC, attributes, last offset delta, two timestamps, producer id,
# producer epoch, base sequence, count.
HEADER = struct.Struct(">qiibIhiqqqhii")
# Bytes of a batch that its length field does not count: base offset and length.
UNCOUNTED = 12
# A batch of one record and no more than this a client may leave uncompressed: franz-go does
# where its codec makes it no smaller, as gzip's 121 bytes for a record of 96.
LEFT_BYTES_MAX = 200


class Violation(Exception):
    """A promise of the server that does not hold."""


def records(lines, expected, start, same_key_same_partition):
    """Checks `partition TAB offset TAB key TAB value` lines, read from offset `start` on,
    against `expected`, the (key, value) pairs in the order in which they were sent.

    Returns the next offset of each partition. A value opens with its index in `expected`.
    """
    next_offset, last_index, partition_of, seen = {}, {}, {}, bytearray(len(expected))
    for line in lines:
        fields = line.rstrip(b"\n").split(b"\t")
        if len(fields) != 4:
            raise Violation(f"not a record: {line[:200]!r}")
        partition, offset, (key, value) = int(fields[0]), int(fields[1]), fields[2:]
        where = f"partition {partition} offset {offset}"
        if offset != next_offset.get(partition, start):
            raise Violation(f"{where}: expected offset {next_offset.get(partition, start)}")
        next_offset[partition] = offset + 1
        index = int(value[:8])
        if not 0 <= index < len(expected) or (key, value) != expected[index]:
            raise Violation(f"{where}: nobody wrote {key!r}: {value[:120]!r}")
        if seen[index]:
            raise Violation(f"{where}: record {index} a second time")
        seen[index] = 1
        if index <= last_index.get(partition, -1):
            raise Violation(f"{where}: record {index} after {last_index[partition]}")
        last_index[partition] = index
        if same_key_same_partition and partition_of.setdefault(key, partition) != partition:
            raise Violation(f"{where}: key {key!r} is in partition {partition_of[key]} too")
    if start == 0 and not all(seen):
        raise Violation(f"{seen.count(0)} records missing, the first is {seen.index(0)}")
    return next_offset


def segments(data, topic, partitions, codec, idempotent, ends):
    """Walks the batches of `topic` below `data` (of any broker there) and checks codec,
    offsets and sequences, and that the log ends where its readers stopped (`ends`).

    Returns the segments' paths.
    """
    paths, seen = [], set()
    for partition in range(partitions):
        name = f"{topic}-{partition}"
        homes = [home for home in [data, *sorted(data.glob("broker-*"))] if (home / name).is_dir()]
        if len(homes) != 1:
            raise Violation(f"{name} lies in {len(homes)} directories: {homes}")
        offset, sequences = 0, {}
        for path in sorted((homes[0] / name).glob("*.log")):
            if int(path.stem) != offset:
                raise Violation(f"{path}: starts at {int(path.stem)}, the one before ends at {offset}")
            for at, batch in batches(path):
                where = f"{path} byte {at}"
                base, length, _, magic, _, attributes, last, _, _, producer, epoch, sequence, count = batch
                if base != offset or magic != 2 or last + 1 != count:
                    raise Violation(f"{where}: base {base} (expected {offset}), magic {magic}, "
                                    f"last delta {last}, count {count}")
                found = CODECS[attributes & 7]
                is_left = found == "none" and count == 1 and length <= LEFT_BYTES_MAX
                if found != codec and not is_left:
                    raise Violation(f"{where}: codec {found}, written with {codec}")
                seen.add(found)
                due = sequences.get((producer, epoch), 0)  # each epoch counts from 0
                if idempotent and (producer < 0 or sequence != due):
                    raise Violation(f"{where}: producer {producer} epoch {epoch}, "
                                    f"sequence {sequence}, expected {due}")
                sequences[producer, epoch] = sequence + count
                offset += count
            paths.append(path)
        if offset != ends.get(partition, 0):
            raise Violation(f"{name}: log ends at {offset}, its readers at {ends.get(partition, 0)}")
    if seen and codec not in seen:
        raise Violation(f"{topic}: no batch in {codec}, all written with it")
    return paths


def batches(path: pathlib.Path):
    """Yields (position, header fields) of each batch of a segment; every byte must be of one."""
    bytes_ = path.read_bytes()
    at = 0
    while at < len(bytes_):
        where = f"{path} byte {at}"
        if at + HEADER.size > len(bytes_):
            raise Violation(f"{where}: {len(bytes_) - at} bytes are no batch")
        header = HEADER.unpack_from(bytes_, at)
        end = at + UNCOUNTED + header[1]
        if not at + HEADER.size <= end <= len(bytes_):
            raise Violation(f"{where}: batch length {header[1]}, file length {len(bytes_)}")
        if (header[5] & 7) >= len(CODECS):
            raise Violation(f"{where}: codec {header[5] & 7}")
        yield at, header
        at = end
