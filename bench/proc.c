#define _GNU_SOURCE
#include "proc.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000U + (uint64_t)t.tv_nsec;
}

/* A CPU clock of another process (clock_getcpuclockid makes kind 2 only):
 * 0 is user and system time, 1 user time, both sampled at the kernel's ticks;
 * 2 is the time on a CPU, exact. /proc/PID/stat tells the first two as well,
 * but in steps of 10 ms. */
static double cpu_clock(pid_t pid, unsigned kind)
{
    struct timespec t;
    if (clock_gettime((clockid_t)((~(unsigned)pid << 3) | kind), &t))
        return 0.0;
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Reads the number after `name` in a file of lines "Name:   number". */
static long read_field(pid_t pid, const char *file, const char *name)
{
    char path[64], line[256];
    long value = 0;
    snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, file);
    FILE *stream = fopen(path, "r");
    if (!stream)
        return 0;
    while (fgets(line, sizeof line, stream))
        if (strncmp(line, name, strlen(name)) == 0) {
            value = strtol(line + strlen(name), NULL, 10);
            break;
        }
    fclose(stream);
    return value;
}

struct usage proc_usage(pid_t pid)
{
    struct usage u = {0};
    if (pid > 0) {
        u.cpu = cpu_clock(pid, 2);
        u.user = cpu_clock(pid, 1);
        u.system = cpu_clock(pid, 0) - u.user;
    }
    return u;
}

struct memory proc_memory(pid_t pid)
{
    struct memory m = {0};
    if (pid > 0) {
        /* smaps_rollup counts pages; status reads counters that lag. */
        m.rss = read_field(pid, "smaps_rollup", "Rss:");
        m.peak = read_field(pid, "status", "VmHWM:");
        m.threads = (int)read_field(pid, "status", "Threads:");
    }
    return m;
}

double proc_machine_busy(void)
{
    unsigned long long t[8] = {0}; /* 3 and 4 are idle and waiting for I/O */
    FILE *file = fopen("/proc/stat", "r");
    if (!file)
        return 0.0;
    int found = fscanf(file, "cpu %llu %llu %llu %llu %llu %llu %llu %llu",
                       &t[0], &t[1], &t[2], &t[3], &t[4], &t[5], &t[6], &t[7]);
    fclose(file);
    double ticks = (double)(t[0] + t[1] + t[2] + t[5] + t[6] + t[7]);
    return found == 8 ? ticks / (double)sysconf(_SC_CLK_TCK) : 0.0;
}

long long proc_listen_drops(void)
{
    char names[8192], values[8192];
    long long drops = -1;
    FILE *file = fopen("/proc/net/netstat", "r");
    if (!file)
        return -1;
    while (fgets(names, sizeof names, file) &&
           fgets(values, sizeof values, file)) {
        char *at_name, *at_value;
        char *name = strtok_r(names, " \n", &at_name);
        char *value = strtok_r(values, " \n", &at_value);
        for (; name && value; name = strtok_r(NULL, " \n", &at_name),
                              value = strtok_r(NULL, " \n", &at_value))
            if (strcmp(name, "ListenDrops") == 0)
                sscanf(value, "%lld", &drops);
    }
    fclose(file);
    return drops;
}
