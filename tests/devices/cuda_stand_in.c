/* The calls of cuda.h and nvml.h that we make, on a processor's memory: whether they are well formed, in order and given
   back.  It is no device, and what it computes proves nothing: a kernel is a function of C with the name of ours. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int status;
static int initialised, current, loaded;
static long allocated;
enum { OK = 0, INVALID_VALUE = 1, NOT_INITIALIZED = 3, INVALID_CONTEXT = 201, INVALID_IMAGE = 200, NOT_FOUND = 500 };
#define NEED_CONTEXT if (!current) return INVALID_CONTEXT

status cuInit(unsigned flags) { initialised = 1; return flags ? INVALID_VALUE : OK; }
status cuDeviceGetCount(int *count) { *count = 2; return initialised ? OK : NOT_INITIALIZED; }
status cuDeviceGet(int *device, int number) { *device = 10 + number; return OK; }
status cuDeviceGetUuid_v2(unsigned char *uuid, int device)
{
    for (int at = 0; at < 16; at++) uuid[at] = (unsigned char)(device == 11 ? 0x60 + at : 0x10 + at);
    return OK;
}
status cuDeviceGetAttribute(int *value, int attribute, int device)
{
    *value = attribute == 75 ? 9 : attribute == 76 ? 0 : -1;
    return device == 11 ? OK : INVALID_VALUE;
}
status cuDevicePrimaryCtxRetain(void **context, int device) { *context = &current; return device == 11 ? OK : INVALID_VALUE; }
status cuCtxSetCurrent(void *context) { current = context == (void *)&current; return current ? OK : INVALID_CONTEXT; }
status cuCtxSynchronize(void) { NEED_CONTEXT; return OK; }
status cuMemAlloc_v2(uint64_t *memory, size_t size)
{
    NEED_CONTEXT;
    size_t *block = malloc(size + sizeof(size_t));
    *block = size;
    allocated += (long)size;
    *memory = (uint64_t)(block + 1);
    return OK;
}
status cuMemFree_v2(uint64_t memory) { size_t *block = (size_t *)memory - 1; allocated -= (long)*block; free(block); return OK; }
status cuMemAllocHost_v2(void **memory, size_t size) { NEED_CONTEXT; *memory = malloc(size); return OK; }
static status move(void *target, const void *source, size_t size, size_t most)
{
    if (!current) return INVALID_CONTEXT;
    if (size > most) return INVALID_VALUE;
    memcpy(target, source, size);
    return OK;
}
status cuMemcpyHtoD_v2(uint64_t target, const void *source, size_t size) { return move((void *)target, source, size, ((size_t *)target)[-1]); }
status cuMemcpyDtoH_v2(void *target, uint64_t source, size_t size) { return move(target, (void *)source, size, ((size_t *)source)[-1]); }
status cuMemcpyDtoD_v2(uint64_t target, uint64_t source, size_t size) { return move((void *)target, (void *)source, size, ((size_t *)source)[-1]); }
status cuModuleLoadData(void **module, const char *image)
{
    NEED_CONTEXT;
    if (!strstr(image, ".version")) return INVALID_IMAGE;
    *module = &loaded;
    return OK;
}
status cuModuleGetFunction(void **function, void *module, const char *name)
{
    *function = !strcmp(name, "ec_probe") ? (void *)1 : !strcmp(name, "ec_burn") ? (void *)2 : 0;
    return module != &loaded ? INVALID_VALUE : *function ? OK : NOT_FOUND;
}
status cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                      unsigned shared, void *stream, void **arguments, void **extra)
{
    NEED_CONTEXT;
    unsigned items = gx * bx;
    if (gy * gz * by * bz != 1 || bx > 1024 || shared || stream || extra) return INVALID_VALUE;
    if (function == (void *)1) {
        uint32_t *data = *(uint32_t **)arguments[0];
        for (unsigned at = 0; at < items; at++) data[at] = data[at] * 3u + 1u;
        return OK;
    }
    uint32_t *seeds = *(uint32_t **)arguments[0], *ints = *(uint32_t **)arguments[1], rounds = *(uint32_t *)arguments[3];
    float *floats = *(float **)arguments[2];
    for (unsigned at = 0; at < items; at++) {
        uint32_t x = seeds[at];
        for (uint32_t round = 0; round < rounds; round++) x = x * 1664525u + 1013904223u;
        ints[at] = x;
        floats[at] = (float)(seeds[at] & 255u);
    }
    return OK;
}
status cuGetErrorName(status error, const char **text) { *text = error == INVALID_VALUE ? "CUDA_ERROR_INVALID_VALUE" : "CUDA_ERROR_OTHER"; return OK; }
status cuGetErrorString(status error, const char **text) { *text = error == INVALID_VALUE ? "invalid argument" : "other"; return OK; }
long stand_in_allocated(void) { return allocated; }

/* NVML: a device is a pointer to its uuid. */
static char known[] = "GPU-60616263-6465-6667-6869-6a6b6c6d6e6f";
status nvmlInit_v2(void) { return OK; }
status nvmlDeviceGetHandleByUUID(const char *uuid, void **device) { *device = known; return strcmp(uuid, known) ? 6 : OK; }
status nvmlDeviceGetCount_v2(unsigned *count) { *count = 1; return OK; }
status nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) { *device = known; return index ? 2 : OK; }
status nvmlDeviceGetTemperature(void *device, unsigned sensor, unsigned *value) { *value = 45; return device != known || sensor; }
status nvmlDeviceGetPowerUsage(void *device, unsigned *value) { *value = 176980; return device != known; }
status nvmlDeviceGetClockInfo(void *device, unsigned kind, unsigned *value) { *value = kind == 1 ? 1980 : 2619; return device != known; }
status nvmlDeviceGetTotalEccErrors(void *device, unsigned kind, unsigned counter, unsigned long long *value) { *value = 7 + kind; return device != known || counter; }
status nvmlDeviceGetUtilizationRates(void *device, unsigned *rates) { rates[0] = 99; rates[1] = 12; return device != known; }
status nvmlDeviceGetMemoryInfo(void *device, unsigned long long *sizes) { sizes[0] = 100; sizes[1] = 60; sizes[2] = 40; return device != known; }
