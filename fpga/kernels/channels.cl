// A convolution and the pool behind it as four kernels that run at once, joined by channels instead of memory: what is
// read, computed, pooled and written is at each moment a few vectors that never leave the device. For hardware, and only
// where the compiler is told so: elsewhere the buffers of the other files are faster. Each kernel is one work item.
//
// The results are those of `conv_l16_any_p1_o1` and `pool_max` to the bit: the same sums in the same order. Windows of the
// pool touch but do not overlap, so that every sum is computed once; a pool of 1 x 1 is none.
#ifdef CHANNELS
#pragma OPENCL EXTENSION cl_intel_channels : enable

channel float16 read_to_conv __attribute__((depth(16)));
channel float16 conv_to_pool __attribute__((depth(16)));
channel float16 pool_to_write __attribute__((depth(16)));

// What each sum takes, in the order in which it takes it: for every block of outputs, pooled row and column, row and
// column in the window, block of inputs, row and column of the kernel.
__attribute__((reqd_work_group_size(1, 1, 1))) kernel void channel_read(
    const global float *restrict in,
    int in_at, int in_batch, int in_block, int in_row, int in_column,
    int blocks, int kernel_h, int kernel_w, int tap_y, int tap_x,
    int batches, int out_blocks, int rows, int columns, int window_h, int window_w)
{
    for (int n = 0; n < batches; ++n)
    for (int o = 0; o < out_blocks; ++o)
    for (int y = 0; y < rows; ++y)
    for (int x = 0; x < columns; ++x)
    for (int wy = 0; wy < window_h; ++wy)
    for (int wx = 0; wx < window_w; ++wx) {
        const global float *restrict base =
            in + in_at + n * in_batch + (y * window_h + wy) * in_row + (x * window_w + wx) * in_column;
        for (int b = 0; b < blocks; ++b)
        for (int ky = 0; ky < kernel_h; ++ky)
        for (int kx = 0; kx < kernel_w; ++kx)
            write_channel_intel(read_to_conv, vload16(0, base + b * in_block + ky * tap_y + kx * tap_x));
    }
}

// `sums` for each block of outputs of each image, of `taps` vectors each.
__attribute__((reqd_work_group_size(1, 1, 1))) kernel void channel_conv(
    const global float *restrict weights, const global float *restrict bias,
    int taps, int batches, int out_blocks, int sums, int flags, float low, float high)
{
    for (int n = 0; n < batches; ++n)
    for (int o = 0; o < out_blocks; ++o) {
        const global float *restrict panel = weights + (size_t)o * (size_t)taps * 256;
        const float16 start = vload16(o, bias);
        for (int sum = 0; sum < sums; ++sum) {
            float16 r = start;
            const global float *restrict w = panel;
            for (int tap = 0; tap < taps; ++tap) {
                float x[16];
                vstore16(read_channel_intel(read_to_conv), 0, x);
                _Pragma("unroll") for (int i = 0; i < 16; ++i) {
                    r = fma((float16)(x[i]), vload16(0, w), r);
                    w += 16;
                }
            }
            ACTIVATE(r)
            write_channel_intel(conv_to_pool, r);
        }
    }
}

__attribute__((reqd_work_group_size(1, 1, 1))) kernel void channel_pool(int windows, int window)
{
    for (int at = 0; at < windows; ++at) {
        float16 r = (float16)(-INFINITY);
        for (int i = 0; i < window; ++i) {
            const float16 v = read_channel_intel(conv_to_pool);
            r = v > r ? v : r;
        }
        write_channel_intel(pool_to_write, r);
    }
}

__attribute__((reqd_work_group_size(1, 1, 1))) kernel void channel_write(
    global float *restrict out,
    int out_at, int out_batch, int out_block, int out_row,
    int batches, int out_blocks, int rows, int columns)
{
    for (int n = 0; n < batches; ++n)
    for (int o = 0; o < out_blocks; ++o)
    for (int y = 0; y < rows; ++y)
    for (int x = 0; x < columns; ++x)
        vstore16(
            read_channel_intel(pool_to_write), 0,
            out + out_at + n * out_batch + o * out_block + y * out_row + x * 16);
}
#endif
