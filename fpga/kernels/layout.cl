// Between the host's row-major tensors and the device's feature maps in blocks of channels, which may be surrounded by
// zeros for the convolutions that read them.

// Writes zeros around the data of each block; a work item does one block.
__attribute__((reqd_work_group_size(1, 1, 1))) kernel void surround(
    global float *restrict out, int block, int row, int height, int top, int bottom, int left, int right)
{
    global float *restrict o = out + get_global_id(0) * block;
    for (int i = 0; i < top * row; ++i) o[i] = 0.0f;
    for (int y = top; y < height - bottom; ++y) {
        for (int x = 0; x < left; ++x) o[y * row + x] = 0.0f;
        for (int x = row - right; x < row; ++x) o[y * row + x] = 0.0f;
    }
    for (int i = (height - bottom) * row; i < height * row; ++i) o[i] = 0.0f;
}

// From N x C x H x W to blocks of `lanes` channels; channels that do not exist are zero.
__attribute__((reqd_work_group_size(1, 1, 1))) kernel void pack(
    const global float *restrict in, global float *restrict out,
    int channels, int rows, int columns, int out_at, int out_batch, int out_block, int out_row, int lanes,
    int blocks, int per_item, int spans)
{
    const int item = get_global_id(0);
    const int first = item % spans * per_item;
    const int last = min(first + per_item, rows);
    const int block = item / spans % blocks;
    const int n = item / spans / blocks;
    for (int y = first; y < last; ++y) {
        global float *restrict o = out + out_at + n * out_batch + block * out_block + y * out_row;
        for (int lane = 0; lane < lanes; ++lane) {
            const int plane = block * lanes + lane;
            if (plane < channels) {
                const global float *restrict a = in + ((n * channels + plane) * rows + y) * columns;
                for (int x = 0; x < columns; ++x) o[x * lanes + lane] = a[x];
            } else {
                for (int x = 0; x < columns; ++x) o[x * lanes + lane] = 0.0f;
            }
        }
    }
}

__attribute__((reqd_work_group_size(1, 1, 1))) kernel void unpack(
    const global float *restrict in, global float *restrict out,
    int channels, int rows, int columns, int in_at, int in_batch, int in_block, int in_row,
    int blocks, int per_item, int spans)
{
    const int item = get_global_id(0);
    const int first = item % spans * per_item;
    const int last = min(first + per_item, rows);
    const int block = item / spans % blocks;
    const int n = item / spans / blocks;
    for (int y = first; y < last; ++y) {
        const global float *restrict a = in + in_at + n * in_batch + block * in_block + y * in_row;
        for (int lane = 0; lane < 16 && block * 16 + lane < channels; ++lane) {
            global float *restrict o = out + ((n * channels + block * 16 + lane) * rows + y) * columns;
            for (int x = 0; x < columns; ++x) o[x] = a[x * 16 + lane];
        }
    }
}
