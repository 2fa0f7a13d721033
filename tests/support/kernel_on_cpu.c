/* A kernel of images.cu on a CPU: one thread after the other. IMAGES is its path. */
#include <string.h>

#define __device__
#define __global__

static struct { unsigned x, y, z; } blockIdx, threadIdx, blockDim;

static unsigned short half_bits(float value) {
    _Float16 half = (_Float16)value;
    unsigned short bits;
    memcpy(&bits, &half, sizeof bits);
    return bits;
}

#include IMAGES

/* The arguments are as those of cuLaunchKernel. */
void launch(const unsigned *blocks, const unsigned *threads, void **arguments) {
    blockDim.x = threads[0], blockDim.y = threads[1], blockDim.z = threads[2];
    for (blockIdx.z = 0; blockIdx.z < blocks[2]; blockIdx.z++)
    for (blockIdx.y = 0; blockIdx.y < blocks[1]; blockIdx.y++)
    for (blockIdx.x = 0; blockIdx.x < blocks[0]; blockIdx.x++)
    for (threadIdx.z = 0; threadIdx.z < threads[2]; threadIdx.z++)
    for (threadIdx.y = 0; threadIdx.y < threads[1]; threadIdx.y++)
    for (threadIdx.x = 0; threadIdx.x < threads[0]; threadIdx.x++)
        preprocess(*(const Plan *)arguments[0], *(const Image **)arguments[1]);
}
