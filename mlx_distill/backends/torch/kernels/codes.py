"""Inside kernels: a tile of codes from packed words, and the end of a sum that several programs share.

No word is moved between threads: a thread shifts the codes out of the words that it holds. Of Triton's own functions only those are called
that its compiler knows by itself, none that are kernels in turn (`tl.sum`): so the interpreter can be chosen after Triton was imported.
"""
# mypy: disable-error-code="import-untyped, no-untyped-def, untyped-decorator, no-untyped-call, no-any-return, misc, no-any-unimported"
# ruff: noqa: RET505 - `else` is what makes the compiler leave a branch out

import triton
import triton.language as tl


@triton.jit
def codes_of(weight, row, inside, step, columns, BITS: tl.constexpr, WIDTH: tl.constexpr):
    """Codes (rows, WIDTH) int32 of columns step * WIDTH and on, which exist; 0 in rows that are not `inside`.

    `row`: (rows,) int64. WIDTH is a power of two, at least 32.
    """
    if 32 % BITS == 0:
        return _of_whole_words(weight, row, inside, step, columns, BITS, WIDTH)
    else:
        return _of_split_words(weight, row, inside, step, columns, BITS, WIDTH)


@triton.jit
def _of_whole_words(weight, row, inside, step, columns, BITS: tl.constexpr, WIDTH: tl.constexpr):
    """No code lies in two words. Each join halves what a number holds; the last axis counts the lower half first."""
    count: tl.constexpr = WIDTH * BITS // 32
    at = row[:, None] * (columns * BITS // 32) + (step * count + tl.arange(0, count))[None, :]
    x = tl.load(weight + at, mask=inside[:, None], other=0)
    x = tl.join(x, x >> 16)
    x = tl.join(x, x >> 8)
    if BITS <= 4:
        x = tl.join(x, x >> 4)
    if BITS == 2:
        x = tl.join(x, x >> 2)
    return tl.reshape(x & ((1 << BITS) - 1), (row.shape[0], WIDTH))


@triton.jit
def pairs_of(weight, row, inside, step, columns, ABOVE: tl.constexpr, BITS: tl.constexpr, WIDTH: tl.constexpr):
    """ABOVE | code, int16 (rows, WIDTH), two at a time: a code and the one 16 bits above it in its word lie side by side.

    So a shift and a mask serve two codes. BITS divides 32.
    """
    count: tl.constexpr = WIDTH * BITS // 32
    at = row[:, None] * (columns * BITS // 32) + (step * count + tl.arange(0, count))[None, :]
    x = tl.load(weight + at, mask=inside[:, None], other=0)
    if BITS <= 8:
        x = tl.join(x, x >> 8)
    if BITS <= 4:
        x = tl.join(x, x >> 4)
    if BITS == 2:
        x = tl.join(x, x >> 2)
    x = (x & (0x00010001 * ((1 << BITS) - 1))) | (0x00010001 * ABOVE)
    return tl.reshape(tl.join(x.to(tl.int16), (x >> 16).to(tl.int16)), (row.shape[0], WIDTH))


@triton.jit
def _of_split_words(weight, row, inside, step, columns, BITS: tl.constexpr, WIDTH: tl.constexpr):
    """32 codes are BITS words: four chunks of eight codes, each in one number of 64 bits, which is halved three times."""
    at = row[:, None] * (columns * BITS // 32) + ((step * (WIDTH // 32) + tl.arange(0, WIDTH // 32)) * BITS)[None, :]
    there = inside[:, None]
    x = tl.join(
        tl.join(_chunk(weight + at, there, 0, BITS), _chunk(weight + at, there, 2, BITS)),
        tl.join(_chunk(weight + at, there, 1, BITS), _chunk(weight + at, there, 3, BITS)),
    )
    x = tl.join(x, x >> (4 * BITS)).to(tl.int32)  # four codes are at most 24 bits; those above are masked out at the end
    x = tl.join(x, x >> (2 * BITS))
    x = tl.join(x, x >> BITS)
    return tl.reshape(x & ((1 << BITS) - 1), (row.shape[0], WIDTH))


@triton.jit
def _chunk(at, there, CHUNK: tl.constexpr, BITS: tl.constexpr):
    """Codes 8 * CHUNK to 8 * CHUNK + 7, the first one lowest, uint64."""
    word: tl.constexpr = 8 * BITS * CHUNK // 32
    shift: tl.constexpr = 8 * BITS * CHUNK % 32
    low = tl.load(at + word, mask=there, other=0).to(tl.uint32, bitcast=True).to(tl.uint64) >> shift
    if shift + 8 * BITS <= 32:
        return low
    else:
        high = tl.load(at + word + 1, mask=there, other=0).to(tl.uint32, bitcast=True).to(tl.uint64)
        return low | (high << (32 - shift))


@triton.jit
def plus(a, b):
    """What `tl.reduce` sums with."""
    return a + b


@triton.jit
def settle(part, out, at, mask, partial, counters, tile, split, splits, total):
    """Write what `splits` programs have summed: the last one to come adds up what all of them left, in order, so that runs agree.

    `at`, `mask`: places in `out`; `partial`: float32 (splits, total); `counters`: of each tile, 0 before and after.
    """
    if splits == 1:
        tl.store(out + at, part.to(out.dtype.element_ty), mask=mask)
    else:
        tl.store(partial + split * total.to(tl.int64) + at, part, mask=mask)
        tl.debug_barrier()  # every thread has written before one of them says so
        if tl.atomic_add(counters + tile, 1, sem="acq_rel") == splits - 1:
            whole = tl.full(part.shape, 0.0, tl.float32)
            for i in range(splits):
                whole += tl.load(partial + i * total.to(tl.int64) + at, mask=mask, other=0.0, cache_modifier=".cg")
            tl.store(out + at, whole.to(out.dtype.element_ty), mask=mask)
            tl.store(counters + tile, 0)
