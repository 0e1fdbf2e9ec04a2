// Convolutions, and matrix products as convolutions of 1x1. One work item computes a run of tiles: P output columns by
// O blocks of 16 output channels, held in registers. f32-fma-v1: each sum begins with the bias, and adds the products by
// fma in the order of input block, kernel row, kernel column, input channel, whatever the tile. There are no bounds to
// look at: the host surrounds what is read by zeros, and the last tile of a row overlaps the one before it.
//
// The name says what is fixed: lanes of the input (l16, or l4 for images), the step from one output column to the next
// in input pixels (s1, s2, or any), and the tile.

#define CONV(NAME, LANES, STEP, P, O) \
__attribute__((reqd_work_group_size(1, 1, 1))) kernel void NAME( \
    const global float *restrict in, const global float *restrict weights, const global float *restrict bias, \
    const global float *restrict residual, global float *restrict out, \
    int in_at, int in_batch, int in_block, int in_row, int in_column, \
    int blocks, int kernel_h, int kernel_w, int tap_y, int tap_x, \
    int residual_at, int residual_batch, int residual_block, int residual_row, int residual_column, \
    int out_at, int out_batch, int out_block, int out_row, int out_column, int out_blocks, \
    int rows, int columns, int tiles, int per_item, int spans, int groups, int share, \
    int flags, float low, float high) \
{ \
    const int item = get_global_id(0); \
    const int first = item % spans * per_item; \
    const int last = min(first + per_item, rows * tiles); \
    const int group = item / spans % groups; \
    const int n = item / spans / groups; \
    const global float *restrict source = in + in_at + n * in_batch + group / share * blocks * in_block; \
    const global float *restrict panel = \
        weights + (size_t)group * ((size_t)blocks * kernel_h * kernel_w * (LANES * O * 16)); \
    for (int tile = first; tile < last; ++tile) { \
        const int y = tile / tiles; \
        const int column = min(tile % tiles * P, columns - P); \
        float16 acc[O][P]; \
        _Pragma("unroll") for (int o = 0; o < O; ++o) { \
            const float16 start = vload16(group * O + o, bias); \
            _Pragma("unroll") for (int p = 0; p < P; ++p) acc[o][p] = start; \
        } \
        const int step = STEP ? STEP * LANES : in_column; \
        const global float *restrict base = source + y * in_row + column * step; \
        const global float *restrict w = panel; \
        for (int b = 0; b < blocks; ++b) \
        for (int ky = 0; ky < kernel_h; ++ky) \
        for (int kx = 0; kx < kernel_w; ++kx) { \
            const global float *restrict x = base + b * in_block + ky * tap_y + kx * tap_x; \
            _Pragma("clang loop unroll_count(4)") for (int i = 0; i < LANES; ++i) { \
                float16 v[O]; \
                _Pragma("unroll") for (int o = 0; o < O; ++o) v[o] = vload16(o, w); \
                w += O * 16; \
                _Pragma("unroll") for (int p = 0; p < P; ++p) { \
                    const float16 s = (float16)(x[p * step + i]); \
                    _Pragma("unroll") for (int o = 0; o < O; ++o) acc[o][p] = fma(s, v[o], acc[o][p]); \
                } \
            } \
        } \
        _Pragma("unroll") for (int o = 0; o < O; ++o) { \
            const int block = group * O + o; \
            if (block < out_blocks) { \
                const global float *restrict r0 = residual + residual_at + n * residual_batch \
                    + block * residual_block + y * residual_row + column * residual_column; \
                global float *restrict o0 = out + out_at + n * out_batch + block * out_block + y * out_row \
                    + column * out_column; \
                _Pragma("unroll") for (int p = 0; p < P; ++p) { \
                    float16 r = acc[o][p]; \
                    if (flags & 1) r += vload16(0, r0 + p * residual_column); \
                    ACTIVATE(r) \
                    vstore16(r, 0, o0 + p * out_column); \
                } \
            } \
        } \
    } \
}

CONV(conv_l16_s1_p14_o2, 16, 1, 14, 2)
CONV(conv_l16_s1_p14_o1, 16, 1, 14, 1)
CONV(conv_l16_s1_p7_o4, 16, 1, 7, 4)
CONV(conv_l16_s1_p7_o2, 16, 1, 7, 2)
CONV(conv_l16_s2_p14_o2, 16, 2, 14, 2)
CONV(conv_l16_s2_p14_o1, 16, 2, 14, 1)
CONV(conv_l16_s2_p7_o4, 16, 2, 7, 4)
CONV(conv_l16_s2_p7_o2, 16, 2, 7, 2)
CONV(conv_l16_any_p4_o4, 16, 0, 4, 4)
CONV(conv_l16_any_p1_o8, 16, 0, 1, 8)
CONV(conv_l16_any_p7_o1, 16, 0, 7, 1)
CONV(conv_l16_any_p1_o1, 16, 0, 1, 1)
CONV(conv_l4_s1_p14_o2, 4, 1, 14, 2)
CONV(conv_l4_s2_p14_o2, 4, 2, 14, 2)
CONV(conv_l4_any_p4_o4, 4, 0, 4, 4)
CONV(conv_l4_any_p1_o8, 4, 0, 1, 8)

// Depthwise: every channel with a kernel of its own, in the order of kernel row, kernel column.
#define DEPTHWISE(NAME, P) \
__attribute__((reqd_work_group_size(1, 1, 1))) kernel void NAME( \
    const global float *restrict in, const global float *restrict weights, const global float *restrict bias, \
    global float *restrict out, \
    int in_at, int in_batch, int in_block, int in_row, int in_column, \
    int blocks, int kernel_h, int kernel_w, int tap_y, int tap_x, \
    int out_at, int out_batch, int out_block, int out_row, \
    int rows, int columns, int tiles, int per_item, int spans, \
    int flags, float low, float high) \
{ \
    const int item = get_global_id(0); \
    const int first = item % spans * per_item; \
    const int last = min(first + per_item, rows * tiles); \
    const int block = item / spans % blocks; \
    const int n = item / spans / blocks; \
    const float16 start = vload16(block, bias); \
    for (int tile = first; tile < last; ++tile) { \
        const int y = tile / tiles; \
        const int column = min(tile % tiles * P, columns - P); \
        const global float *restrict base = \
            in + in_at + n * in_batch + block * in_block + y * in_row + column * in_column; \
        const global float *restrict w = weights + block * kernel_h * kernel_w * 16; \
        float16 acc[P]; \
        _Pragma("unroll") for (int p = 0; p < P; ++p) acc[p] = start; \
        for (int ky = 0; ky < kernel_h; ++ky) \
        for (int kx = 0; kx < kernel_w; ++kx) { \
            const float16 v = vload16(0, w); \
            w += 16; \
            const global float *restrict x = base + ky * tap_y + kx * tap_x; \
            _Pragma("unroll") for (int p = 0; p < P; ++p) acc[p] = fma(vload16(0, x + p * in_column), v, acc[p]); \
        } \
        global float *restrict o = out + out_at + n * out_batch + block * out_block + y * out_row + column * 16; \
        _Pragma("unroll") for (int p = 0; p < P; ++p) { \
            float16 r = acc[p]; \
            ACTIVATE(r) \
            vstore16(r, p, o); \
        } \
    } \
}

DEPTHWISE(depthwise_p7, 7)
DEPTHWISE(depthwise_p1, 1)
