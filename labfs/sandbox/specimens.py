"""Small lab files that are valid: what a sandbox is filled with so that real tools can open them.

Tests: sandbox/test_sandbox_faults, sandbox/test_cost.
"""

from __future__ import annotations

import base64
import gzip
import random
import struct
import zlib

# Written by h5py: datasets `counts` (2 genes × 3 cells, int32), `genes` and `cells`.
_HDF5 = (
    "eNrr9HBx4+WS4mLm4GCAgf8wwAzhG0DFLWrqVfw9XIKYGCqYhFAUQgEXEwMjAwObIAOQYkvOL80rKd4M1csmABJkTU/NSy2+zogi"
    "lpyak1P8lgmqUJoBH0g3uMEPdgIjAyOjCgMDExMjI0wn1LUM6HxmHgZGAaDvWMA8BQZWoCuZuTiAPmBm3A91igTMghUMQwas3Of2"
    "iwfKZof6VxOIWYEYHkYiwPBgRIQRPGw4GBiFGSFqkcPjMVQBF8ySPQxDGrTO7r0UEmBqzOAU5OxoiB4qzOgpBRoqTGih8hOqgG2Y"
    "hArbw/IuR0MnI2djAGZmPis="
)


def hdf5() -> bytes:
    """Return a small HDF5 file of counts by gene and cell."""
    return zlib.decompress(base64.b64decode(_HDF5))


def fastq_gz(sample: str, read: int, reads: int = 400) -> bytes:
    """Return gzipped FASTQ with 100-base reads, the same at every call."""
    chance = random.Random(f"{sample}/{read}")
    lines = []
    for number in range(reads):
        bases = "".join(chance.choices("ACGT", k=100))
        quality = "".join(chance.choices("FFFFFF:,#", k=100))
        lines.append(
            f"@SBX001:42:FLOWCELL:1:1101:{1000 + number}:{2000 + number} {read}:N:0:{sample}\n{bases}\n+\n{quality}\n"
        )
    return gzip.compress("".join(lines).encode(), mtime=0)


def vcf_gz(sample: str, variants: int = 120) -> bytes:
    """Return a gzipped VCF 4.2 with variants on chromosome 17, in order."""
    chance = random.Random(sample)
    head = [
        "##fileformat=VCFv4.2",
        "##source=labfs sandbox",
        "##contig=<ID=chr17,length=83257441>",
        '##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">',
        f"#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\t{sample}",
    ]
    rows = []
    for position in sorted(chance.sample(range(7_660_000, 7_690_000), variants)):
        old, new = chance.sample("ACGT", 2)
        rows.append(f"chr17\t{position}\t.\t{old}\t{new}\t{chance.randint(20, 99)}\tPASS\t.\tGT\t0/1")
    return gzip.compress(("\n".join([*head, *rows]) + "\n").encode(), mtime=0)


def csv(rows: int = 96) -> bytes:
    """Return a plate of measurements."""
    chance = random.Random(rows)
    lines = ["well,sample,concentration_ng_ul,rin,reads"]
    for index in range(rows):
        well = f"{'ABCDEFGH'[index // 12 % 8]}{index % 12 + 1:02d}"
        values = f"{chance.uniform(5, 80):.1f},{chance.uniform(6, 10):.1f},{chance.randint(10**5, 10**7)}"
        lines.append(f"{well},S{index + 1:03d},{values}")
    return ("\n".join(lines) + "\n").encode()


def png(width: int = 64, height: int = 48) -> bytes:
    """Return a coverage plot of sorts: a colour gradient."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(
        b"\0" + b"".join(bytes((x * 255 // width, y * 255 // height, 128)) for x in range(width)) for y in range(height)
    )
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def pdf(lines: list[str]) -> bytes:
    """Return a one-page PDF with some lines of text."""
    text = " ".join(f"({line}) Tj 0 -16 Td" for line in lines)
    content = f"BT /F1 12 Tf 72 770 Td {text} ET".encode()
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 4 0 R"
        b" /Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    out = bytearray(b"%PDF-1.4\n")
    offsets = []
    for number, body in enumerate(objects, 1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    out += b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, table)
    return bytes(out)
