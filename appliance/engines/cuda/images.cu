/* Images of a batch, from pixels as they came to what a model takes: resized, in another order,
 * scaled. One thread makes one pixel of one image. `images.py` launches it and says what it means.
 *
 * The arithmetic is that of the CPU's path, step by step, so that the results are equal: Pillow's for
 * resizing (whole numbers, rounded to a byte after each direction), numpy's for scaling (rounded
 * after each operation, so it is compiled without fused multiply-add).
 *
 * Plain C, but for what CUDA adds: the tests run it on a CPU.
 */

#define PRECISION_BITS 22 /* of the weights; see resampling.py */
#define MOST_CHANNELS 3

enum { FLOAT32, FLOAT16, UINT8 };

/* One image. Without `across`, it has the height and width that are wanted. */
typedef struct {
    const unsigned char *pixels; /* height x width x channels */
    const int *across;           /* of each column made: the first pixel, how many, their weights */
    const int *down;             /* of each row made, likewise */
    int across_length;           /* from one column's numbers to the next one's */
    int down_length;
    int width; /* of the pixels that came */
    int row;   /* where in the batch it goes */
} Image;

typedef struct {
    void *batch; /* what the model takes */
    int height, width, channels;
    int type;
    int planes_first; /* channels x height x width */
    int reversed;     /* the last channel comes first */
    float factor[MOST_CHANNELS];
    float shift[MOST_CHANNELS];
} Plan;

#ifdef __CUDACC__
__device__ static unsigned short half_bits(float value)
{
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}
#endif

__device__ static int rounded(int sum)
{
    sum = (sum + (1 << (PRECISION_BITS - 1))) >> PRECISION_BITS;
    return sum < 0 ? 0 : sum > 255 ? 255 : sum;
}

/* Makes one pixel. All its channels at once: each byte is fetched as seldom as can be. */
__device__ static void resize(const Image *image, int channels, int x, int y, int *made)
{
    const int *column = image->across + x * image->across_length;
    const int *line = image->down + y * image->down_length;
    const unsigned char *from =
        image->pixels + ((long long)line[0] * image->width + column[0]) * channels;
    int down[MOST_CHANNELS] = {0};
    for (int j = 0; j < line[1]; j++) {
        int across[MOST_CHANNELS] = {0};
        for (int i = 0; i < column[1]; i++)
            for (int c = 0; c < MOST_CHANNELS; c++)
                if (c < channels)
                    across[c] += from[i * channels + c] * column[2 + i];
        for (int c = 0; c < MOST_CHANNELS; c++)
            down[c] += rounded(across[c]) * line[2 + j];
        from += (long long)image->width * channels;
    }
    for (int c = 0; c < MOST_CHANNELS; c++)
        made[c] = rounded(down[c]);
}

#ifdef __cplusplus
extern "C"
#endif
__global__ void preprocess(const Plan plan, const Image *images)
{
    const int x = blockIdx.x * blockDim.x + threadIdx.x;
    const int y = blockIdx.y * blockDim.y + threadIdx.y;
    const Image *image = images + blockIdx.z;
    if (x >= plan.width || y >= plan.height)
        return;
    const long long area = (long long)plan.height * plan.width;
    const long long pixel = (long long)y * plan.width + x;
    int values[MOST_CHANNELS] = {0};
    if (image->across)
        resize(image, plan.channels, x, y, values);
    else
        for (int c = 0; c < MOST_CHANNELS; c++)
            if (c < plan.channels)
                values[c] = image->pixels[pixel * plan.channels + c];
    for (int c = 0; c < plan.channels; c++) {
        const int value = values[plan.reversed ? plan.channels - 1 - c : c];
        const long long at = image->row * area * plan.channels
                             + (plan.planes_first ? c * area + pixel : pixel * plan.channels + c);
        const float scaled = (float)value * plan.factor[c] + plan.shift[c];
        if (plan.type == FLOAT32)
            ((float *)plan.batch)[at] = scaled;
        else if (plan.type == FLOAT16)
            ((unsigned short *)plan.batch)[at] = half_bits(scaled);
        else
            ((unsigned char *)plan.batch)[at] = (unsigned char)value;
    }
}
