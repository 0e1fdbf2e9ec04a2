// i8-rne-v1: feature maps of codes, a byte each, unsigned. A code stands for its distance from a zero, times a scale. Sums
// are integers of 32 bits and so have no order; the host put into `start` the bias and what the zero of the input adds up
// to. A result is the sum times one float a channel, rounded to the nearest, to the even one of two as near, moved by the
// zero and cut to the bounds. Around a map, and where channels do not exist, there is whatever adds nothing.

// To the nearest, to the even one of two as near, of what is less than 2^22: the sum has no places behind the point.
#define NEAREST(f) (((f) + 12582912.0f) - 12582912.0f)
// Bounds are relative to the zero.
#define CUT(f, low, high) { f = f < low ? low : f; f = f > high ? high : f; }
#define CODE(f, low, high, zero) \
    CUT(f, low, high) \
    const uchar16 code = convert_uchar16(convert_int16(NEAREST(f) + zero));

// How far codes are from their zero.
#define DISTANCE(codes, zero) (convert_float16(convert_int16(codes)) - (zero))

// Four products of a code and a signed weight, in each lane. Emulation on processors that have an instruction for just
// this uses it; in hardware it is four small multipliers and an adder.
#ifdef DOT_IS_AN_INSTRUCTION
#define DOT(acc, x, w) __asm__("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"((int16)(x)), "v"(w))
#else
#define DOT(acc, x, w) \
    acc += (int16)((x) & 255) * (((w) << 24) >> 24) + (int16)((x) >> 8 & 255) * (((w) << 16) >> 24) \
        + (int16)((x) >> 16 & 255) * (((w) << 8) >> 24) + (int16)((x) >> 24 & 255) * ((w) >> 24);
#endif

// As CONV. Weights that need more than 8 bits are given as a sum of several that do not: `passes`. Of `flags`, 1 is a
// residual, which is added to what the convolution alone would give, and 2 is a result in floats.
#define CODE_CONV(NAME, LANES, STEP, P, O) \
__attribute__((reqd_work_group_size(1, 1, 1))) kernel void NAME( \
    const global uchar *restrict in, const global char *restrict weights, const global int *restrict start, \
    const global float *restrict scale, const global uchar *restrict residual, global uchar *restrict out, \
    int in_at, int in_batch, int in_block, int in_row, int in_column, \
    int blocks, int kernel_h, int kernel_w, int tap_y, int tap_x, int passes, \
    int residual_at, int residual_batch, int residual_block, int residual_row, int residual_column, \
    int out_at, int out_batch, int out_block, int out_row, int out_column, int out_blocks, \
    int rows, int columns, int tiles, int per_item, int spans, int groups, int share, \
    int flags, float own_low, float own_high, float own_factor, float other_factor, float other_zero, \
    float low, float high, float zero) \
{ \
    const int item = get_global_id(0); \
    const int first = item % spans * per_item; \
    const int last = min(first + per_item, rows * tiles); \
    const int group = item / spans % groups; \
    const int n = item / spans / groups; \
    const global uchar *restrict source = in + in_at + n * in_batch + group / share * blocks * in_block; \
    const global char *restrict panel = \
        weights + (size_t)group * ((size_t)passes * blocks * kernel_h * kernel_w * (LANES * O * 16)); \
    for (int tile = first; tile < last; ++tile) { \
        const int y = tile / tiles; \
        const int column = min(tile % tiles * P, columns - P); \
        int16 acc[O][P]; \
        _Pragma("unroll") for (int o = 0; o < O; ++o) { \
            const int16 begin = vload16(group * O + o, start); \
            _Pragma("unroll") for (int p = 0; p < P; ++p) acc[o][p] = begin; \
        } \
        const int step = STEP ? STEP * LANES : in_column; \
        const global uchar *restrict base = source + y * in_row + column * step; \
        const global char *restrict w = panel; \
        for (int pass = 0; pass < passes; ++pass) \
        for (int b = 0; b < blocks; ++b) \
        for (int ky = 0; ky < kernel_h; ++ky) \
        for (int kx = 0; kx < kernel_w; ++kx) { \
            const global uchar *restrict x = base + b * in_block + ky * tap_y + kx * tap_x; \
            _Pragma("unroll") for (int i = 0; i < LANES; i += 4) { \
                int16 v[O]; \
                _Pragma("unroll") for (int o = 0; o < O; ++o) v[o] = vload16(o, (const global int *)w); \
                w += O * 64; \
                _Pragma("unroll") for (int p = 0; p < P; ++p) { \
                    const int s = *(const global int *)(x + p * step + i); \
                    _Pragma("unroll") for (int o = 0; o < O; ++o) { DOT(acc[o][p], s, v[o]); } \
                } \
            } \
        } \
        int16 sums[O * P]; \
        _Pragma("unroll") for (int o = 0; o < O; ++o) \
        _Pragma("unroll") for (int p = 0; p < P; ++p) sums[o * P + p] = acc[o][p]; \
        const int there = min(O, out_blocks - group * O); \
        for (int o = 0; o < there; ++o) { \
            const int block = group * O + o; \
            const float16 factor = vload16(block, scale); \
            const global uchar *restrict r0 = residual + residual_at + n * residual_batch \
                + block * residual_block + y * residual_row + column * residual_column; \
            const int at = out_at + n * out_batch + block * out_block + y * out_row + column * out_column; \
            for (int p = 0; p < P; ++p) { \
                float16 r = convert_float16(sums[o * P + p]) * factor; \
                if (flags & 2) { \
                    vstore16(r, 0, (global float *)out + at + p * out_column); \
                    continue; \
                } \
                if (flags & 1) { \
                    CUT(r, own_low, own_high) \
                    const float16 other = DISTANCE(vload16(0, r0 + p * residual_column), other_zero); \
                    r = fma(NEAREST(r), (float16)(own_factor), other * other_factor); \
                } \
                CODE(r, low, high, zero) \
                vstore16(code, 0, out + at + p * out_column); \
            } \
        } \
    } \
}

CODE_CONV(code_conv_l16_s1_p14_o2, 16, 1, 14, 2)
CODE_CONV(code_conv_l16_s1_p7_o4, 16, 1, 7, 4)
CODE_CONV(code_conv_l16_any_p14_o2, 16, 0, 14, 2)
CODE_CONV(code_conv_l16_any_p7_o2, 16, 0, 7, 2)
CODE_CONV(code_conv_l16_any_p4_o4, 16, 0, 4, 4)
CODE_CONV(code_conv_l16_any_p1_o8, 16, 0, 1, 8)
CODE_CONV(code_conv_l16_any_p7_o1, 16, 0, 7, 1)
CODE_CONV(code_conv_l16_any_p1_o1, 16, 0, 1, 1)
CODE_CONV(code_conv_l4_any_p14_o2, 4, 0, 14, 2)
CODE_CONV(code_conv_l4_any_p4_o4, 4, 0, 4, 4)
CODE_CONV(code_conv_l4_any_p1_o8, 4, 0, 1, 8)

// Every channel with a kernel of its own, whose weights are integers of 32 bits.
#define CODE_DEPTHWISE(NAME, P) \
__attribute__((reqd_work_group_size(1, 1, 1))) kernel void NAME( \
    const global uchar *restrict in, const global int *restrict weights, const global int *restrict start, \
    const global float *restrict scale, global uchar *restrict out, \
    int in_at, int in_batch, int in_block, int in_row, int in_column, \
    int blocks, int kernel_h, int kernel_w, int tap_y, int tap_x, \
    int out_at, int out_batch, int out_block, int out_row, \
    int rows, int columns, int tiles, int per_item, int spans, \
    int flags, float low, float high, float zero) \
{ \
    const int item = get_global_id(0); \
    const int first = item % spans * per_item; \
    const int last = min(first + per_item, rows * tiles); \
    const int block = item / spans % blocks; \
    const int n = item / spans / blocks; \
    const int16 begin = vload16(block, start); \
    const float16 factor = vload16(block, scale); \
    for (int tile = first; tile < last; ++tile) { \
        const int y = tile / tiles; \
        const int column = min(tile % tiles * P, columns - P); \
        const global uchar *restrict base = \
            in + in_at + n * in_batch + block * in_block + y * in_row + column * in_column; \
        const global int *restrict w = weights + block * kernel_h * kernel_w * 16; \
        int16 acc[P]; \
        _Pragma("unroll") for (int p = 0; p < P; ++p) acc[p] = begin; \
        for (int ky = 0; ky < kernel_h; ++ky) \
        for (int kx = 0; kx < kernel_w; ++kx) { \
            const int16 v = vload16(0, w); \
            w += 16; \
            const global uchar *restrict x = base + ky * tap_y + kx * tap_x; \
            _Pragma("unroll") for (int p = 0; p < P; ++p) acc[p] += convert_int16(vload16(0, x + p * in_column)) * v; \
        } \
        int16 sums[P]; \
        _Pragma("unroll") for (int p = 0; p < P; ++p) sums[p] = acc[p]; \
        const int at = out_at + n * out_batch + block * out_block + y * out_row + column * 16; \
        for (int p = 0; p < P; ++p) { \
            float16 r = convert_float16(sums[p]) * factor; \
            if (flags & 2) { \
                vstore16(r, p, (global float *)out + at); \
            } else { \
                CODE(r, low, high, zero) \
                vstore16(code, p, out + at); \
            } \
        } \
    } \
}

CODE_DEPTHWISE(code_depthwise_p7, 7)
CODE_DEPTHWISE(code_depthwise_p1, 1)

#define CODE_ROWS \
    const int item = get_global_id(0); \
    const int first = item % spans * per_item; \
    const int last = min(first + per_item, rows); \
    const int block = item / spans % blocks; \
    const int n = item / spans / blocks;

// The same numbers as other codes; also what copies.
__attribute__((reqd_work_group_size(1, 1, 1))) kernel void recode(
    const global uchar *restrict in, global uchar *restrict out,
    int in_at, int in_batch, int in_block, int in_row, int out_at, int out_batch, int out_block, int out_row,
    int rows, int columns, int blocks, int per_item, int spans,
    float from, float factor, float low, float high, float zero)
{
    CODE_ROWS
    for (int y = first; y < last; ++y) {
        const global uchar *restrict a = in + in_at + n * in_batch + block * in_block + y * in_row;
        global uchar *restrict o = out + out_at + n * out_batch + block * out_block + y * out_row;
        for (int x = 0; x < columns; ++x) {
            float16 r = DISTANCE(vload16(x, a), from) * factor;
            CODE(r, low, high, zero)
            vstore16(code, x, o);
        }
    }
}

// As `join`; codes that do not exist add nothing, whatever they are.
__attribute__((reqd_work_group_size(1, 1, 1))) kernel void code_join(
    const global uchar *restrict in, global uchar *restrict out,
    int in_at, int in_batch, int in_block, int in_row, int out_at, int out_batch, int out_block, int out_row,
    int rows, int columns, int blocks, int per_item, int spans, int channels, int before,
    float from, float factor, float low, float high, float zero)
{
    CODE_ROWS
    const int there = min(16, channels - block * 16);
    for (int y = first; y < last; ++y) {
        const global uchar *restrict a = in + in_at + n * in_batch + block * in_block + y * in_row;
        for (int lane = 0; lane < there; ++lane) {
            const int at = before + block * 16 + lane;
            global uchar *restrict o =
                out + out_at + n * out_batch + at / 16 * out_block + y * out_row + at % 16;
            for (int x = 0; x < columns; ++x) {
                float r = ((float)a[x * 16 + lane] - from) * factor;
                CUT(r, low, high)
                o[x * 16] = (uchar)(int)(NEAREST(r) + zero);
            }
        }
    }
}

__attribute__((reqd_work_group_size(1, 1, 1))) kernel void code_add(
    const global uchar *restrict left, const global uchar *restrict right, global uchar *restrict out,
    int left_at, int left_batch, int left_block, int left_row,
    int right_at, int right_batch, int right_block, int right_row,
    int out_at, int out_batch, int out_block, int out_row,
    int rows, int columns, int blocks, int per_item, int spans,
    float left_zero, float left_factor, float right_zero, float right_factor, float low, float high, float zero)
{
    CODE_ROWS
    for (int y = first; y < last; ++y) {
        const global uchar *restrict a = left + left_at + n * left_batch + block * left_block + y * left_row;
        const global uchar *restrict b = right + right_at + n * right_batch + block * right_block + y * right_row;
        global uchar *restrict o = out + out_at + n * out_batch + block * out_block + y * out_row;
        for (int x = 0; x < columns; ++x) {
            const float16 other = DISTANCE(vload16(x, b), right_zero) * right_factor;
            float16 r = fma(DISTANCE(vload16(x, a), left_zero), (float16)(left_factor), other);
            CODE(r, low, high, zero)
            vstore16(code, x, o);
        }
    }
}

// A window is cut at the edges of the data. `table` has the factor for each number of values in a window.
#define CODE_POOL(NAME, TYPE, START, TAKE, FACTOR) \
__attribute__((reqd_work_group_size(1, 1, 1))) kernel void NAME( \
    const global uchar *restrict in, const global float *restrict table, global uchar *restrict out, \
    int in_at, int in_batch, int in_block, int in_row, int height, int width, \
    int out_at, int out_batch, int out_block, int out_row, int rows, int columns, int blocks, \
    int kernel_h, int kernel_w, int stride_h, int stride_w, int dilation_h, int dilation_w, \
    int pad_top, int pad_left, int pad_bottom, int pad_right, int count_padding, int per_item, int spans, \
    int from, float low, float high, float zero) \
{ \
    CODE_ROWS \
    const global uchar *restrict source = in + in_at + n * in_batch + block * in_block; \
    global uchar *restrict target = out + out_at + n * out_batch + block * out_block; \
    for (int y = first; y < last; ++y) \
    for (int x = 0; x < columns; ++x) { \
        const int top = y * stride_h - pad_top, left = x * stride_w - pad_left; \
        TYPE most = (TYPE)(START); \
        int count = 0; \
        for (int ky = 0; ky < kernel_h; ++ky) { \
            const int sy = top + ky * dilation_h; \
            if (sy < 0 || sy >= height) continue; \
            for (int kx = 0; kx < kernel_w; ++kx) { \
                const int sx = left + kx * dilation_w; \
                if (sx < 0 || sx >= width) continue; \
                const uchar16 v = vload16(0, source + sy * in_row + sx * 16); \
                TAKE \
                ++count; \
            } \
        } \
        const int all = (min(top + kernel_h, height + pad_bottom) - top) * (min(left + kernel_w, width + pad_right) - left); \
        float16 r = FACTOR; \
        CODE(r, low, high, zero) \
        vstore16(code, 0, target + y * out_row + x * 16); \
    } \
}

CODE_POOL(code_pool_max, uchar16, 0, most = max(most, v);, DISTANCE(most, (float)from) * table[0])
CODE_POOL(code_pool_average, int16, 0, most += convert_int16(v) - from;, \
    convert_float16(most) * table[count_padding ? all : count])

// From numbers. What is divided is rounded once: the quotient is corrected by what it leaves over.
__attribute__((reqd_work_group_size(1, 1, 1))) kernel void quantize(
    const global float *restrict in, global uchar *restrict out,
    int in_at, int in_batch, int in_block, int in_row, int out_at, int out_batch, int out_block, int out_row,
    int rows, int length, int blocks, int per_item, int spans,
    float scale, float inverse, float low, float high, float zero)
{
    CODE_ROWS
    for (int y = first; y < last; ++y) {
        const global float *restrict a = in + in_at + n * in_batch + block * in_block + y * in_row;
        global uchar *restrict o = out + out_at + n * out_batch + block * out_block + y * out_row;
        for (int x = 0; x < length; x += 4) {
            const float4 value = vload4(0, a + x);
            const float4 near = value * inverse;
            const float4 exact = fma(fma(-near, (float4)(scale), value), (float4)(inverse), near);
            float4 r = fabs(near) < 1024.0f ? exact : near;
            r = r > low ? r : low;
            r = r > high ? high : r;
            vstore4(convert_uchar4(convert_int4(NEAREST(r) + zero)), 0, o + x);
        }
    }
}

__attribute__((reqd_work_group_size(1, 1, 1))) kernel void dequantize(
    const global uchar *restrict in, global float *restrict out,
    int in_at, int in_batch, int in_block, int in_row, int out_at, int out_batch, int out_block, int out_row,
    int rows, int columns, int blocks, int per_item, int spans, float zero, float scale)
{
    CODE_ROWS
    for (int y = first; y < last; ++y) {
        const global uchar *restrict a = in + in_at + n * in_batch + block * in_block + y * in_row;
        global float *restrict o = out + out_at + n * out_batch + block * out_block + y * out_row;
        for (int x = 0; x < columns; ++x) vstore16(DISTANCE(vload16(x, a), zero) * scale, x, o);
    }
}

// As `surround`, `pack` and `unpack`; signed codes are held 128 above what they are, which is another first bit.
__attribute__((reqd_work_group_size(1, 1, 1))) kernel void surround_codes(
    global uchar *restrict out, int block, int row, int height, int top, int bottom, int left, int right, int zero)
{
    global uchar *restrict o = out + get_global_id(0) * block;
    const uchar z = (uchar)zero;
    for (int i = 0; i < top * row; ++i) o[i] = z;
    for (int y = top; y < height - bottom; ++y) {
        for (int x = 0; x < left; ++x) o[y * row + x] = z;
        for (int x = row - right; x < row; ++x) o[y * row + x] = z;
    }
    for (int i = (height - bottom) * row; i < height * row; ++i) o[i] = z;
}

__attribute__((reqd_work_group_size(1, 1, 1))) kernel void pack_codes(
    const global uchar *restrict in, global uchar *restrict out,
    int channels, int rows, int columns, int out_at, int out_batch, int out_block, int out_row, int lanes,
    int blocks, int per_item, int spans, int flip)
{
    CODE_ROWS
    for (int y = first; y < last; ++y) {
        global uchar *restrict o = out + out_at + n * out_batch + block * out_block + y * out_row;
        for (int lane = 0; lane < lanes; ++lane) {
            const int plane = block * lanes + lane;
            if (plane < channels) {
                const global uchar *restrict a = in + ((n * channels + plane) * rows + y) * columns;
                for (int x = 0; x < columns; ++x) o[x * lanes + lane] = a[x] ^ flip;
            } else {
                for (int x = 0; x < columns; ++x) o[x * lanes + lane] = 0;
            }
        }
    }
}

__attribute__((reqd_work_group_size(1, 1, 1))) kernel void unpack_codes(
    const global uchar *restrict in, global uchar *restrict out,
    int channels, int rows, int columns, int in_at, int in_batch, int in_block, int in_row,
    int blocks, int per_item, int spans, int flip)
{
    CODE_ROWS
    for (int y = first; y < last; ++y) {
        const global uchar *restrict a = in + in_at + n * in_batch + block * in_block + y * in_row;
        for (int lane = 0; lane < 16 && block * 16 + lane < channels; ++lane) {
            global uchar *restrict o = out + ((n * channels + block * 16 + lane) * rows + y) * columns;
            for (int x = 0; x < columns; ++x) o[x] = a[x * 16 + lane] ^ flip;
        }
    }
}
