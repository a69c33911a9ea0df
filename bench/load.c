/* The load generator: one thread, epoll, every answer checked.
 *
 *   load echo   N connections, each with `depth` messages in flight; or, with
 *               --rate, messages at fixed times whatever the server does, each
 *               latency counted from the time it was due
 *   load burst  N connects at once, each with one answered message
 *   load churn  connect, one answered message, close, N at a time
 *   load memory what each of N connections costs the server, idle
 *
 * Compiled with BENCH_TLS, it does all of this over TLS.
 *
 * Prints one JSON object. Every connection first has one message answered,
 * uncounted: then the server has accepted it for certain. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>

#include "client.h"
#include "proc.h"

#define SLOW_TICK (SECOND / 100) /* a slow reader takes SLOW_BYTES this often */
#define SLOW_BYTES 1024U
#define SLOW_AHEAD 262144U       /* and sends at most this much each time */

struct options opt = {
    .host = "127.0.0.1", .framing = "raw", .payload = "upper", .size = "64",
    .conns = 1, .depth = 1, .window = 64, .base = 1000,
    .warmup = 0.2, .duration = 1.0, .timeout = 5.0,
};

/* The open loop's next message; how late each was sent; the slow readers. */
static struct {
    uint64_t due, issued;
    struct hist lag;
    uint64_t tick, bytes;
} pace;

struct span {
    struct usage server_from, server_until;
    struct rusage load_from, load_until;
    uint64_t from, until;
    double busy_from, busy_until; /* of the whole machine */
    struct memory memory, base, after;
    unsigned base_conns;
};

/* ---- the loads ----------------------------------------------------------- */

static uint64_t nanoseconds(double seconds)
{
    return (uint64_t)(seconds * 1e9);
}

static void die(const char *what)
{
    fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void issue_due(uint64_t now)
{
    while (run.sending && pace.due <= now) {
        struct conn *c = &run.conns[pace.issued % run.active];
        if (pace.due >= run.from)
            hist_add(&pace.lag, now - pace.due);
        if (c->state == OPEN) {
            queue(c, pace.due);
            flush(c);
        }
        pace.due = due_time(++pace.issued);
    }
}

/* Slow readers are served by the clock: each takes in a little and sends what
 * the kernel accepts. They stand behind the active connections. */
static void tick_slow(uint64_t now)
{
    for (unsigned i = run.active; i < run.active + opt.slow; i++) {
        struct conn *c = &run.conns[i];
        size_t before = c->owed - c->unsent;
        if (c->state != OPEN || !receive(c, SLOW_BYTES))
            continue;
        pace.bytes += before - (c->owed - c->unsent);
        while (run.sending && c->unsent < SLOW_AHEAD)
            queue(c, now);
        flush(c);
    }
    pace.tick = now + SLOW_TICK;
}

static uint64_t earlier(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static void span_begin(struct span *s)
{
    s->busy_from = proc_machine_busy();
    s->server_from = proc_usage(opt.pid);
    getrusage(RUSAGE_SELF, &s->load_from);
    s->from = now_ns();
    run.measuring = true;
}

static void span_end(struct span *s)
{
    run.measuring = false;
    s->until = now_ns();
    getrusage(RUSAGE_SELF, &s->load_until);
    s->server_until = proc_usage(opt.pid);
    s->busy_until = proc_machine_busy();
}

/* Warms up, measures, and waits for the answers that are still due. */
static void run_phases(struct span *s)
{
    uint64_t now = now_ns(), patience = nanoseconds(opt.timeout);
    bool ended = false;

    run.start = pace.due = run.progress = now;
    run.from = now + nanoseconds(opt.warmup);
    run.until = run.from + nanoseconds(opt.duration);
    run.sending = true;
    for (unsigned i = 0; i < run.active && !run.churning && opt.rate <= 0; i++)
        fill_window(&run.conns[i], now);
    while (!ended || (run.outstanding + run.pending > 0 &&
                      now < run.until + patience)) {
        if (!ended && !run.measuring && now >= run.from)
            span_begin(s);
        if (run.measuring && now >= run.until) {
            span_end(s);
            run.sending = run.churning = false;
            ended = true;
        }
        if (opt.rate > 0)
            issue_due(now);
        if (opt.slow > 0 && now >= pace.tick)
            tick_slow(now);
        if (run.outstanding + run.pending > 0 && now > run.progress + patience)
            break;
        uint64_t until = ended ? run.until + patience
                               : run.measuring ? run.until : run.from;
        if (opt.rate > 0 && run.sending)
            until = earlier(until, pace.due);
        if (opt.slow > 0)
            until = earlier(until, pace.tick);
        step(until);
        now = now_ns();
    }
    if (run.measuring)
        span_end(s);
    for (unsigned i = 0; i < run.active; i++) {
        struct conn *c = &run.conns[i];
        if (c->waiting > 0 || c->state == CONNECTING)
            drop(c, UNANSWERED, 0);
    }
}

static void load_echo(struct span *s)
{
    open_range(0, run.total, opt.window);
    if (run.opened < run.total)
        return;
    run_phases(s);
    s->memory = proc_memory(opt.pid);
}

/* Everybody at once; then nobody, and what memory the server keeps. */
static void load_burst(struct span *s)
{
    const struct timespec rest = {.tv_nsec = 500000000};
    run.stop_at_failure = false;
    s->base = proc_memory(opt.pid);
    span_begin(s);
    open_range(0, run.total, run.total);
    span_end(s);
    run.messages = run.opened;
    s->memory = proc_memory(opt.pid);
    for (unsigned i = 0; i < run.total; i++)
        if (run.conns[i].state == OPEN)
            hang_up(&run.conns[i]);
    nanosleep(&rest, NULL);
    s->after = proc_memory(opt.pid);
}

static void load_churn(struct span *s)
{
    run.churning = true;
    for (unsigned i = 0; i < run.total; i++)
        launch(&run.conns[i]);
    run_phases(s);
    s->memory = proc_memory(opt.pid);
}

/* From the base on, so that what a server sets up once does not count. */
static void load_memory(struct span *s)
{
    unsigned base = opt.base < run.total ? opt.base : 0;
    open_range(0, base, opt.window);
    s->base_conns = base;
    s->base = proc_memory(opt.pid);
    span_begin(s);
    if (run.opened == base)
        open_range(base, run.total, opt.window);
    span_end(s);
    run.messages = run.opened - base;
    s->memory = proc_memory(opt.pid);
}

/* ---- the report ------------------------------------------------------------ */

static double between(struct timeval a, struct timeval b)
{
    return (double)(b.tv_sec - a.tv_sec) + (double)(b.tv_usec - a.tv_usec) / 1e6;
}

static void print_server(const struct span *s)
{
    double user = s->server_until.user - s->server_from.user;
    double system = s->server_until.system - s->server_from.system;

    printf("\"server\": {\"cpu\": %.6f, \"user_ticks\": %.6f, "
           "\"system_ticks\": %.6f, \"rss_kib\": %ld, \"base_rss_kib\": %ld, "
           "\"after_rss_kib\": %ld, \"base_conns\": %u, \"peak_kib\": %ld, "
           "\"threads\": %d}",
           s->server_until.cpu - s->server_from.cpu, user, system,
           s->memory.rss, s->base.rss, s->after.rss, s->base_conns, s->memory.peak,
           s->memory.threads);
}

static void report(const struct span *s, long long drops)
{
    double seconds = (double)(s->until - s->from) / 1e9;
    double user = between(s->load_from.ru_utime, s->load_until.ru_utime);
    double system = between(s->load_from.ru_stime, s->load_until.ru_stime);
    double server = s->server_until.cpu - s->server_from.cpu;
    double others = s->busy_until - s->busy_from - server - user - system;

    printf("{\"mode\": \"%s\", \"over\": \"%s\", \"conns\": %u, \"size\": \"%s\", \"depth\": %u, "
           "\"rate\": %.1f, \"seconds\": %.6f, \"messages\": %llu, "
           "\"per_second\": %.1f, ",
           opt.mode, wire_about(), opt.conns, opt.size, opt.depth, opt.rate, seconds,
           (unsigned long long)run.messages,
           seconds > 0 ? (double)run.messages / seconds : 0.0);
    printf("\"wanted\": %u, \"opened\": %u, \"refused\": %llu, \"lost\": %llu, "
           "\"wrong\": %llu, \"unanswered\": %llu, \"error\": \"%s\", "
           "\"listen_drops\": %lld, \"slow_bytes\": %llu, ",
           run.total, run.opened, (unsigned long long)run.faults[REFUSED],
           (unsigned long long)run.faults[LOST],
           (unsigned long long)run.faults[WRONG],
           (unsigned long long)run.faults[UNANSWERED], run.error, drops,
           (unsigned long long)pace.bytes);
    print_server(s);
    printf(", \"load\": {\"user\": %.6f, \"system\": %.6f}, \"others_cpu\": %.3f, "
           "\"latency_us\": ", user, system, others > 0 ? others : 0.0);
    hist_print(&run.latency);
    printf(", \"lag_us\": ");
    hist_print(&pace.lag);
    printf(", \"open_us\": ");
    hist_print(&run.opening);
    printf("}\n");
}

/* ---- the command line ------------------------------------------------------ */

static void usage(void)
{
    fprintf(stderr,
            "usage: load echo|burst|churn|memory --port P [--host A] [--pid P]\n"
            "  [--conns N] [--size BYTES|LOW-HIGH] [--depth N] [--rate PER_S]\n"
            "  [--framing raw|lines] [--payload upper|echo|matmul]\n"
            "  [--idle N] [--slow N] [--window N] [--base N] [--warmup S]\n"
            "  [--duration S] [--timeout S] [--spin]\n");
    exit(2);
}

static void parse(int argc, char **argv)
{
    static const struct option options[] = {
        {"port", 1, 0, 'p'},     {"host", 1, 0, 'h'},    {"pid", 1, 0, 'P'},
        {"conns", 1, 0, 'c'},    {"size", 1, 0, 's'},    {"depth", 1, 0, 'd'},
        {"rate", 1, 0, 'r'},     {"framing", 1, 0, 'f'}, {"idle", 1, 0, 'i'},
        {"payload", 1, 0, 'y'},  {"slow", 1, 0, 'S'},    {"window", 1, 0, 'w'},
        {"base", 1, 0, 'b'},     {"warmup", 1, 0, 'W'},  {"spin", 0, 0, 'x'},
        {"duration", 1, 0, 'D'}, {"timeout", 1, 0, 't'}, {0, 0, 0, 0},
    };
    int option;

    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1)
        switch (option) {
        case 'p': opt.port = (unsigned)atoi(optarg); break;
        case 'h': opt.host = optarg; break;
        case 'P': opt.pid = atoi(optarg); break;
        case 'c': opt.conns = (unsigned)atoi(optarg); break;
        case 's': opt.size = optarg; break;
        case 'd': opt.depth = (unsigned)atoi(optarg); break;
        case 'r': opt.rate = atof(optarg); break;
        case 'f': opt.framing = optarg; break;
        case 'y': opt.payload = optarg; break;
        case 'i': opt.idle = (unsigned)atoi(optarg); break;
        case 'S': opt.slow = (unsigned)atoi(optarg); break;
        case 'w': opt.window = (unsigned)atoi(optarg); break;
        case 'b': opt.base = (unsigned)atoi(optarg); break;
        case 'W': opt.warmup = atof(optarg); break;
        case 'D': opt.duration = atof(optarg); break;
        case 't': opt.timeout = atof(optarg); break;
        case 'x': opt.spin = true; break;
        default: usage();
        }
    if (optind != argc - 1 || !opt.port || !opt.conns || !opt.depth)
        usage();
    opt.mode = argv[optind];
}

/* The place of a word in a list that ends with NULL. */
static int place_of(const char *word, const char *const *words)
{
    for (int i = 0; words[i]; i++)
        if (strcmp(word, words[i]) == 0)
            return i;
    usage();
    return -1;
}

static void set_up(void)
{
    static const char *const framings[] = {"raw", "lines", NULL};
    static const char *const payloads[] = {
        [UPPER] = "upper", [ECHO] = "echo", [MATMUL] = "matmul", NULL,
    };
    struct rlimit files;
    bool lines = place_of(opt.framing, framings) == 1;
    enum payload payload = (enum payload)place_of(opt.payload, payloads);
    size_t low = (size_t)atol(opt.size), high = low;
    const char *dash = strchr(opt.size, '-');

    if (dash)
        high = (size_t)atol(dash + 1);
    if (payload == MATMUL)
        low = high = PATTERN_MATRIX * sizeof(float);
    if (low < (lines ? 2 : 1) || high < low)
        usage();
    if (pattern_make(&run.ring, low, high, opt.depth, lines, payload) < 0)
        die("messages");
    run.server.sin_family = AF_INET;
    run.server.sin_port = htons((uint16_t)opt.port);
    if (inet_pton(AF_INET, opt.host, &run.server.sin_addr) != 1)
        usage();
    if (!wire_set_up(NULL))
        die("TLS");
    signal(SIGPIPE, SIG_IGN);
    prctl(PR_SET_TIMERSLACK, 1UL); /* wakes on time, not within 50 us */
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    run.epoll = epoll_create1(EPOLL_CLOEXEC);
    run.active = opt.conns;
    run.total = opt.conns + opt.slow + opt.idle;
    run.stop_at_failure = true;
    run.conns = calloc(run.total, sizeof *run.conns);
    if (run.epoll < 0 || !run.conns)
        die("connections");
    for (unsigned i = 0; i < run.total; i++) {
        struct conn *c = &run.conns[i];
        c->wire.fd = -1;
        c->index = i;
        c->kind = i < opt.conns ? ACTIVE : i < opt.conns + opt.slow ? SLOW : IDLE;
        if (c->kind == ACTIVE && opt.rate <= 0 &&
            !(c->stamps = malloc(opt.depth * sizeof *c->stamps)))
            die("connections");
    }
}

int main(int argc, char **argv)
{
    static struct span span;

    parse(argc, argv);
    set_up();
    long long drops = proc_listen_drops();
    if (strcmp(opt.mode, "echo") == 0)
        load_echo(&span);
    else if (strcmp(opt.mode, "burst") == 0)
        load_burst(&span);
    else if (strcmp(opt.mode, "churn") == 0)
        load_churn(&span);
    else if (strcmp(opt.mode, "memory") == 0)
        load_memory(&span);
    else
        usage();
    report(&span, drops < 0 ? -1 : proc_listen_drops() - drops);
    return 0;
}
