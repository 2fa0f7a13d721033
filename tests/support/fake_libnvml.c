/* As much of libnvidia-ml.so.1 as the appliance calls, without a GPU. What it says stands in the
 * file FAKE_NVML, a line "name=number" for each value, and may change at any time; "name:1=number"
 * is the second GPU's. "nvmlInitWithFlags=9" has a call fail, "hang=1" has readings never return.
 * "xids=2" and "xid=79": so many errors of that number have been reported so far. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef unsigned long long u64;
typedef struct { u64 total, free, used; } memory_t;
typedef struct { unsigned gpu, memory; } utilisation_t;
typedef struct { void *device; u64 kind, data; unsigned instance, compute; } event_t;

enum { NOT_SUPPORTED = 3, NOT_FOUND = 6, TIMEOUT = 10 };

static const char *addresses[] = {"0000:3b:00.0", "0000:3a:00.0"};
static char handles[2];
static u64 registered, heard[2];

static int said(const char *name, int device, u64 *value) {
    char line[128], wanted[96];
    int found = 0;
    FILE *file = fopen(getenv("FAKE_NVML"), "r");
    if (!file) return 0;
    if (device) snprintf(wanted, sizeof wanted, "%s:%d=", name, device);
    else snprintf(wanted, sizeof wanted, "%s=", name);
    while (fgets(line, sizeof line, file))
        if (!strncmp(line, wanted, strlen(wanted))) {
            *value = strtoull(line + strlen(wanted), NULL, 0);
            found = 1;
        }
    fclose(file);
    return found;
}

static int number_of(void *handle) { return (int)((char *)handle - handles); }

/* The error that a call is to return, or 0. */
static int failing(const char *name, int device) {
    u64 code = 0;
    while (said("hang", 0, &code) && code) pause();
    return said(name, device, &code) ? (int)code : 0;
}

#define FAIL(name, device) { int code = failing(name, device); if (code) return code; }

static int give(const char *call, void *handle, const char *name, u64 *value) {
    int device = number_of(handle);
    FAIL(call, device)
    return said(name, device, value) ? 0 : NOT_SUPPORTED;
}

static int give_unsigned(const char *call, void *handle, const char *name, unsigned *value) {
    u64 found = 0;
    int code = give(call, handle, name, &found);
    if (!code) *value = (unsigned)found;
    return code;
}

int nvmlInitWithFlags(unsigned flags) { FAIL("nvmlInitWithFlags", 0) return 0; }
const char *nvmlErrorString(int code) { return code == 15 ? "GPU is lost" : "fake error"; }

int nvmlDeviceGetHandleByPciBusId_v2(const char *address, void **handle) {
    for (int number = 0; number < 2; number++)
        if (!strcmp(address, addresses[number])) {
            *handle = &handles[number];
            return failing("nvmlDeviceGetHandleByPciBusId_v2", number);
        }
    return NOT_FOUND;
}
int nvmlDeviceGetName(void *handle, char *name, unsigned length) {
    FAIL("nvmlDeviceGetName", number_of(handle))
    snprintf(name, length, "Fake GPU %d", number_of(handle));
    return 0;
}
int nvmlDeviceGetTemperature(void *handle, int sensor, unsigned *value) {
    return sensor ? 2 : give_unsigned("nvmlDeviceGetTemperature", handle, "temperature", value);
}
int nvmlDeviceGetTemperatureThreshold(void *handle, int threshold, unsigned *value) {
    if (threshold != 1) return 2;
    return give_unsigned("nvmlDeviceGetTemperatureThreshold", handle, "slow_from", value);
}
int nvmlDeviceGetClockInfo(void *handle, int kind, unsigned *value) {
    return give_unsigned("nvmlDeviceGetClockInfo", handle, kind == 1 ? "sm" : "memory_clock", value);
}
int nvmlDeviceGetMaxClockInfo(void *handle, int kind, unsigned *value) {
    return kind != 1 ? 2 : give_unsigned("nvmlDeviceGetMaxClockInfo", handle, "max_sm", value);
}
int nvmlDeviceGetPowerUsage(void *handle, unsigned *value) {
    return give_unsigned("nvmlDeviceGetPowerUsage", handle, "power", value);
}
int nvmlDeviceGetEnforcedPowerLimit(void *handle, unsigned *value) {
    return give_unsigned("nvmlDeviceGetEnforcedPowerLimit", handle, "power_limit", value);
}
int nvmlDeviceGetUtilizationRates(void *handle, utilisation_t *value) {
    value->memory = 0;
    return give_unsigned("nvmlDeviceGetUtilizationRates", handle, "used", &value->gpu);
}
int nvmlDeviceGetMemoryInfo(void *handle, memory_t *value) {
    int code = give("nvmlDeviceGetMemoryInfo", handle, "memory_used", &value->used);
    if (!code) code = give("nvmlDeviceGetMemoryInfo", handle, "memory_total", &value->total);
    value->free = value->total - value->used;
    return code;
}
#ifdef NEW_NAMES
int nvmlDeviceGetCurrentClocksEventReasons(void *handle, u64 *value) {
#else
int nvmlDeviceGetCurrentClocksThrottleReasons(void *handle, u64 *value) {
#endif
    return give("reasons_call", handle, "reasons", value);
}
int nvmlDeviceGetTotalEccErrors(void *handle, int kind, int counter, u64 *value) {
    if (counter) return 2;
    return give("nvmlDeviceGetTotalEccErrors", handle, kind ? "uncorrected" : "corrected", value);
}
int nvmlEventSetCreate(void **set) { FAIL("nvmlEventSetCreate", 0) *set = &registered; return 0; }
int nvmlDeviceRegisterEvents(void *handle, u64 kinds, void *set) {
    FAIL("nvmlDeviceRegisterEvents", number_of(handle))
    if (kinds != 8 || set != &registered) return 2;
    registered |= 1u << number_of(handle);
    return 0;
}
int nvmlEventSetWait_v2(void *set, event_t *event, unsigned timeout) {
    for (int device = 0; device < 2; device++) {
        u64 count = 0;
        if (!(registered >> device & 1) || !said("xids", device, &count)) continue;
        if (heard[device] < count) {
            heard[device]++;
            event->device = &handles[device];
            event->kind = 8;
            event->data = 0;
            said("xid", device, &event->data);
            return 0;
        }
    }
    return TIMEOUT;
}
