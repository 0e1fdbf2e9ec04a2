// Pools over feature maps in blocks of 16 channels. A work item computes rows of one block. Windows are cut at the edges
// of the data. f32-fma-v1: a mean is the sum in the order of rows and columns, times the rounded inverse of the count,
// which the host made a table of: division is not exact everywhere in OpenCL.

#define POOL_BEGIN \
    const int item = get_global_id(0); \
    const int first = item % spans * per_item; \
    const int last = min(first + per_item, rows); \
    const int block = item / spans % blocks; \
    const int n = item / spans / blocks; \
    const global float *restrict source = in + in_at + n * in_batch + block * in_block; \
    global float *restrict target = out + out_at + n * out_batch + block * out_block;

__attribute__((reqd_work_group_size(1, 1, 1))) kernel void pool_max(
    const global float *restrict in, global float *restrict out,
    int in_at, int in_batch, int in_block, int in_row, int height, int width,
    int out_at, int out_batch, int out_block, int out_row, int rows, int columns, int blocks,
    int kernel_h, int kernel_w, int stride_h, int stride_w, int dilation_h, int dilation_w, int pad_top, int pad_left,
    int per_item, int spans, int flags, float low, float high)
{
    POOL_BEGIN
    for (int y = first; y < last; ++y)
    for (int x = 0; x < columns; ++x) {
        float16 r = (float16)(-INFINITY);
        for (int ky = 0; ky < kernel_h; ++ky) {
            const int sy = y * stride_h - pad_top + ky * dilation_h;
            if (sy < 0 || sy >= height) continue;
            for (int kx = 0; kx < kernel_w; ++kx) {
                const int sx = x * stride_w - pad_left + kx * dilation_w;
                if (sx < 0 || sx >= width) continue;
                const float16 v = vload16(0, source + sy * in_row + sx * 16);
                r = v > r ? v : r;
            }
        }
        ACTIVATE(r)
        vstore16(r, 0, target + y * out_row + x * 16);
    }
}

__attribute__((reqd_work_group_size(1, 1, 1))) kernel void pool_average(
    const global float *restrict in, const global float *restrict inverse, global float *restrict out,
    int in_at, int in_batch, int in_block, int in_row, int height, int width,
    int out_at, int out_batch, int out_block, int out_row, int rows, int columns, int blocks,
    int kernel_h, int kernel_w, int stride_h, int stride_w, int pad_top, int pad_left, int pad_bottom, int pad_right,
    int count_padding, int per_item, int spans, int flags, float low, float high)
{
    POOL_BEGIN
    for (int y = first; y < last; ++y)
    for (int x = 0; x < columns; ++x) {
        const int top = y * stride_h - pad_top, left = x * stride_w - pad_left;
        const int y0 = max(top, 0), y1 = min(top + kernel_h, height);
        const int x0 = max(left, 0), x1 = min(left + kernel_w, width);
        const int count = count_padding
            ? (min(top + kernel_h, height + pad_bottom) - top) * (min(left + kernel_w, width + pad_right) - left)
            : (y1 - y0) * (x1 - x0);
        float16 sum = (float16)(0.0f);
        for (int sy = y0; sy < y1; ++sy)
        for (int sx = x0; sx < x1; ++sx) sum += vload16(0, source + sy * in_row + sx * 16);
        float16 r = sum * inverse[count];
        ACTIVATE(r)
        vstore16(r, 0, target + y * out_row + x * 16);
    }
}
