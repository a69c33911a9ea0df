/* What a process costs, as the operating system counts it. */
#ifndef BENCH_PROC_H
#define BENCH_PROC_H

#include <stdint.h>
#include <sys/types.h>

struct usage {
    double cpu;          /* seconds on a CPU so far, all threads, exact */
    double user, system; /* the same as sampled by the kernel's ticks */
};

struct memory {
    long rss, peak; /* resident KiB, now and at most so far */
    int threads;
};

/* Both are zeroes for a process that is not there. */
struct usage proc_usage(pid_t pid);
struct memory proc_memory(pid_t pid);

/* Seconds that all CPUs of the machine have worked, for anybody or for another
 * virtual machine, since boot; 0 where the system does not tell. */
double proc_machine_busy(void);

/* Connections that the kernel dropped because a backlog was full, since boot
 * and on the whole machine; -1 where it does not tell. */
long long proc_listen_drops(void);

uint64_t now_ns(void);

#endif
