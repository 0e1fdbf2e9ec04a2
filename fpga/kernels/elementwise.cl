// What is computed element by element on feature maps in blocks of 16 channels. A work item computes rows of one block.

#define ROWS_BEGIN \
    const int item = get_global_id(0); \
    const int first = item % spans * per_item; \
    const int last = min(first + per_item, rows); \
    const int block = item / spans % blocks; \
    const int n = item / spans / blocks;

// Also what copies: concatenation is a copy to where the blocks belong.
__attribute__((reqd_work_group_size(1, 1, 1))) kernel void activate(
    const global float *restrict in, global float *restrict out,
    int in_at, int in_batch, int in_block, int in_row, int out_at, int out_batch, int out_block, int out_row,
    int rows, int columns, int blocks, int per_item, int spans, int flags, float low, float high)
{
    ROWS_BEGIN
    for (int y = first; y < last; ++y) {
        const global float *restrict a = in + in_at + n * in_batch + block * in_block + y * in_row;
        global float *restrict o = out + out_at + n * out_batch + block * out_block + y * out_row;
        for (int x = 0; x < columns; ++x) {
            float16 r = vload16(x, a);
            ACTIVATE(r)
            vstore16(r, x, o);
        }
    }
}

// A factor and a summand for each channel, joined by fma.
__attribute__((reqd_work_group_size(1, 1, 1))) kernel void affine(
    const global float *restrict in, const global float *restrict scale, const global float *restrict shift,
    global float *restrict out,
    int in_at, int in_batch, int in_block, int in_row, int out_at, int out_batch, int out_block, int out_row,
    int rows, int columns, int blocks, int per_item, int spans, int flags, float low, float high)
{
    ROWS_BEGIN
    const float16 s = vload16(block, scale), t = vload16(block, shift);
    for (int y = first; y < last; ++y) {
        const global float *restrict a = in + in_at + n * in_batch + block * in_block + y * in_row;
        global float *restrict o = out + out_at + n * out_batch + block * out_block + y * out_row;
        for (int x = 0; x < columns; ++x) {
            float16 r = fma(vload16(x, a), s, t);
            ACTIVATE(r)
            vstore16(r, x, o);
        }
    }
}

// The second operand may be one value a channel: then its row and column steps are 0.
#define BINARY(NAME, OPERATOR) \
__attribute__((reqd_work_group_size(1, 1, 1))) kernel void NAME( \
    const global float *restrict left, const global float *restrict right, global float *restrict out, \
    int left_at, int left_batch, int left_block, int left_row, \
    int right_at, int right_batch, int right_block, int right_row, int right_column, \
    int out_at, int out_batch, int out_block, int out_row, \
    int rows, int columns, int blocks, int per_item, int spans, int flags, float low, float high) \
{ \
    ROWS_BEGIN \
    for (int y = first; y < last; ++y) { \
        const global float *restrict a = left + left_at + n * left_batch + block * left_block + y * left_row; \
        const global float *restrict b = right + right_at + n * right_batch + block * right_block + y * right_row; \
        global float *restrict o = out + out_at + n * out_batch + block * out_block + y * out_row; \
        for (int x = 0; x < columns; ++x) { \
            float16 r = vload16(x, a) OPERATOR vload16(0, b + x * right_column); \
            ACTIVATE(r) \
            vstore16(r, x, o); \
        } \
    } \
}

BINARY(add, +)
BINARY(multiply, *)

// Copies channels to behind others that end within a block. What is behind the last one of all is zero.
__attribute__((reqd_work_group_size(1, 1, 1))) kernel void join(
    const global float *restrict in, global float *restrict out,
    int in_at, int in_batch, int in_block, int in_row, int out_at, int out_batch, int out_block, int out_row,
    int rows, int columns, int blocks, int per_item, int spans, int channels, int before, int is_last)
{
    ROWS_BEGIN
    const int there = min(16, channels - block * 16);
    const int begin = before + block * 16;
    const int end = is_last && block == blocks - 1 ? (begin + there + 15) / 16 * 16 - begin : there;
    for (int y = first; y < last; ++y) {
        const global float *restrict a = in + in_at + n * in_batch + block * in_block + y * in_row;
        for (int lane = 0; lane < end; ++lane) {
            const int at = begin + lane;
            global float *restrict o =
                out + out_at + n * out_batch + at / 16 * out_block + y * out_row + at % 16;
            for (int x = 0; x < columns; ++x) o[x * 16] = lane < there ? a[x * 16 + lane] : 0.0f;
        }
    }
}

// bfp9-v1: the channels of a block share the exponent of the greatest, and keep eight bits and a sign each. Channels that
// do not exist count for nothing. What is less than 2^-119 is zero; what is no number stays.
__attribute__((reqd_work_group_size(1, 1, 1))) kernel void share_exponent(
    const global float *restrict in, global float *restrict out,
    int in_at, int in_batch, int in_block, int in_row, int out_at, int out_batch, int out_block, int out_row,
    int rows, int columns, int blocks, int per_item, int spans, int lanes, int channels)
{
    ROWS_BEGIN
    const int there = min(lanes, channels - block * lanes);
    for (int y = first; y < last; ++y) {
        const global float *restrict a = in + in_at + n * in_batch + block * in_block + y * in_row;
        global float *restrict o = out + out_at + n * out_batch + block * out_block + y * out_row;
        for (int x = 0; x < columns; ++x) {
            uint most = 0;
            for (int i = 0; i < there; ++i) most = max(most, as_uint(a[x * lanes + i]) & 0x7fffffffu);
            const uint exponent = most >> 23;
            const float step = as_float((max(exponent, 8u) - 7u) << 23);
            const float inverse = as_float((261u - min(max(exponent, 8u), 254u)) << 23);
            for (int i = 0; i < lanes; ++i) {
                const float value = i < there ? a[x * lanes + i] : 0.0f;
                float steps = (value * inverse + 12582912.0f) - 12582912.0f;
                steps = steps > 255.0f ? 255.0f : steps;
                steps = steps < -255.0f ? -255.0f : steps;
                const float rounded = exponent < 8 ? 0.0f : steps * step;
                o[x * lanes + i] = exponent == 255 ? value : rounded;
            }
        }
    }
}
