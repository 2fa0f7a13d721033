/* As much of libcuda.so.1 as the appliance calls, without a GPU: device memory is host memory, and
 * what is put on a stream of ours is done at once. FAKE_CUDA_FAIL="cuEventQuery=700" has a call fail. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef unsigned long long u64;

static int failing(const char *name) {
    const char *wish = getenv("FAKE_CUDA_FAIL");
    size_t length = strlen(name);
    if (wish && !strncmp(wish, name, length) && wish[length] == '=') return atoi(wish + length + 1);
    return 0;
}

/* How far from where the CPU has it an integrated device finds memory of the host. */
static u64 mapped_by(void) { return getenv("FAKE_CUDA_INTEGRATED") ? (u64)1 << 56 : 0; }

/* Memory is set on the default stream, some time after the call. */
static void *cleared;
static unsigned char cleared_to;
static size_t cleared_bytes;
static void finish_default_stream(void) {
    if (cleared) memset(cleared, cleared_to, cleared_bytes);
    cleared = NULL;
}

/* What was made and is not let go yet; what was not made cannot be let go, nor twice. */
enum { STREAMS, EVENTS, GRAPHS, EXECUTABLES, MODULES, PINS };
static struct { void *handle; int kind; } alive[4096];
static int made(int kind, void *handle) {
    for (int i = 0; i < 4096; i++)
        if (!alive[i].handle) { alive[i].handle = handle, alive[i].kind = kind; return 0; }
    return 2;
}
static int let_go(int kind, void *handle) {
    for (int i = 0; i < 4096; i++)
        if (alive[i].handle == handle && alive[i].kind == kind) { alive[i].handle = NULL; return 0; }
    return 400;
}
static void *another(int kind) {
    static u64 number = 0x1000;
    void *handle = (void *)(uintptr_t)(number += 0x10);
    return made(kind, handle) ? NULL : handle;
}
/* Tests ask. */
int last_priority;
int fake_cuda_alive(int kind) {
    int count = 0;
    for (int i = 0; i < 4096; i++) count += alive[i].handle && alive[i].kind == kind;
    return count;
}

#define CALL(name, ...) int name(__VA_ARGS__) { int code = failing(#name); if (code) return code;
#define END return 0; }

int cuGetProcAddress_v2(const char *name, void **found, int version, u64 flags, int *status) {
    char second[128];
    void *self = dlopen("libcuda.so.1", RTLD_NOLOAD | RTLD_LAZY);
    snprintf(second, sizeof second, "%s_v2", name);
    *found = dlsym(self, second);
    if (!*found) *found = dlsym(self, name);
    if (status) *status = *found ? 0 : 1;
    return *found ? 0 : 500;
}
int cuGetProcAddress(const char *name, void **found, int version, u64 flags) {
    return cuGetProcAddress_v2(name, found, version, flags, NULL);
}

CALL(cuInit, unsigned flags) END
CALL(cuDriverGetVersion, int *version) *version = 13000; END
CALL(cuDeviceGetCount, int *count)
    const char *wish = getenv("FAKE_CUDA_DEVICES");
    *count = wish ? atoi(wish) : 1; END
CALL(cuDeviceGet, int *device, int ordinal) *device = ordinal; END
CALL(cuDeviceGetName, char *name, int length, int device) snprintf(name, length, "Fake GPU"); END
CALL(cuDeviceGetAttribute, int *value, int attribute, int device)
    if (attribute == 18) { *value = mapped_by() != 0 || getenv("FAKE_CUDA_INTEGRATED"); return 0; }
    *value = attribute == 75 ? 9 : 0; END
CALL(cuDeviceGetPCIBusId, char *address, int length, int device)
    snprintf(address, length, "0000:%02x:00.0", 0x3b - device); END
CALL(cuDeviceTotalMem_v2, size_t *bytes, int device) *bytes = (size_t)1 << 33; END
CALL(cuDevicePrimaryCtxRetain, void **context, int device) *context = (void *)0x77; END
CALL(cuDevicePrimaryCtxRelease_v2, int device) END
CALL(cuCtxPushCurrent_v2, void *context) END
CALL(cuCtxPopCurrent_v2, void **context) if (context) *context = (void *)0x77; END
CALL(cuCtxGetCurrent, void **context) *context = (void *)0x77; END
CALL(cuCtxDetach, void *context) END
CALL(cuCtxSetCurrent, void *context) END
CALL(cuCtxSynchronize, void) finish_default_stream(); END
CALL(cuCtxGetDevice, int *device) *device = 0; END
CALL(cuCtxGetStreamPriorityRange, int *least, int *greatest) *least = 0; *greatest = -5; END
CALL(cuMemGetInfo_v2, size_t *free, size_t *total)
    *free = (size_t)1 << 32; *total = (size_t)1 << 33; END
CALL(cuMemAlloc_v2, u64 *address, size_t size) *address = (u64)(uintptr_t)malloc(size); END
CALL(cuMemFree_v2, u64 address) free((void *)(uintptr_t)address); END
CALL(cuMemHostAlloc, void **host, size_t size, unsigned flags) *host = malloc(size); END
CALL(cuMemAllocHost_v2, void **host, size_t size) *host = malloc(size); END
CALL(cuMemFreeHost, void *host) free(host); END
CALL(cuMemHostRegister_v2, void *host, size_t size, unsigned flags)
    if (flags != 3 || !size) return 1;
    return made(PINS, host); END
CALL(cuMemHostUnregister, void *host) return let_go(PINS, host); END
CALL(cuMemHostGetDevicePointer_v2, u64 *address, void *host, unsigned flags)
    if (flags) return 1;
    *address = (u64)(uintptr_t)host + mapped_by(); END
CALL(cuMemsetD8_v2, u64 address, unsigned char value, size_t size)
    cleared = (void *)(uintptr_t)address, cleared_to = value, cleared_bytes = size; END
CALL(cuMemcpyHtoDAsync_v2, u64 target, const void *source, size_t size, void *stream)
    memcpy((void *)(uintptr_t)target, source, size); END
CALL(cuMemcpyDtoHAsync_v2, void *target, u64 source, size_t size, void *stream)
    memcpy(target, (void *)(uintptr_t)source, size); END
CALL(cuStreamCreateWithPriority, void **stream, unsigned flags, int priority)
    if (flags != 1) return 1;
    *stream = another(STREAMS), last_priority = priority; END
CALL(cuStreamDestroy_v2, void *stream) return let_go(STREAMS, stream); END
CALL(cuStreamSynchronize, void *stream) if ((uintptr_t)stream <= 1) finish_default_stream(); END
CALL(cuStreamWaitEvent, void *stream, void *event, unsigned flags) END
CALL(cuStreamBeginCapture_v2, void *stream, int mode) if (mode != 1) return 1; END
CALL(cuStreamEndCapture, void *stream, void **graph) *graph = another(GRAPHS); END
CALL(cuGraphInstantiateWithFlags, void **executable, void *graph, u64 flags)
    *executable = another(EXECUTABLES); END
CALL(cuGraphUpload, void *executable, void *stream) if (!executable) return 1; END
CALL(cuGraphLaunch, void *executable, void *stream) if (!executable) return 1; END
CALL(cuGraphExecDestroy, void *executable) return let_go(EXECUTABLES, executable); END
CALL(cuGraphDestroy, void *graph) return let_go(GRAPHS, graph); END
/* The image of a kernel is the path of a library with the function `launch`. */
CALL(cuModuleLoadData, void **module, const char *image)
    *module = dlopen(image, RTLD_NOW);
    if (!*module) return 200;
    return made(MODULES, *module); END
CALL(cuModuleUnload, void *module) return let_go(MODULES, module); END
CALL(cuModuleGetFunction, void **function, void *module, const char *name)
    *function = dlsym(module, strcmp(name, "preprocess") ? name : "launch");
    if (!*function) return 500; END
CALL(cuLaunchKernel, void *function, unsigned bx, unsigned by, unsigned bz, unsigned tx, unsigned ty,
     unsigned tz, unsigned shared, void *stream, void **arguments, void **extra)
    unsigned blocks[3] = {bx, by, bz}, threads[3] = {tx, ty, tz};
    if (shared || extra) return 1;
    ((void (*)(unsigned *, unsigned *, void **))function)(blocks, threads, arguments); END
CALL(cuEventCreate, void **event, unsigned flags)
    if (flags != 3) return 1;
    *event = another(EVENTS); END
CALL(cuEventRecord, void *event, void *stream) END
CALL(cuEventQuery, void *event) END
CALL(cuEventSynchronize, void *event) END
CALL(cuEventDestroy_v2, void *event) return let_go(EVENTS, event); END
CALL(cuGetErrorString, int number, const char **text) *text = "a fake error"; END
CALL(cuGetErrorName, int number, const char **text) *text = "CUDA_ERROR_FAKE"; END
