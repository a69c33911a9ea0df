/* What happens in a scene: see scene.h. */
#include "scene.h"

#ifndef _WIN32
#include <stdio.h>
#include <string.h>
#include <unistd.h>

const role script[CLIENTS] = {
    [PLAIN] = {{"one\ntw", "o\nthr", "ee\n"}, "one\ntwo\nthree\n", 1, 0, 0},
    [BULK] = {{NULL}, NULL, 1, 0, 0},
    [BREAKER] = {{"x\nhalf a", NULL}, "x\n", 0, 0, ECONNRESET},
    [IDLER] = {{NULL}, "", 0, 1, ETIMEDOUT},
    [CLINGER] = {{"bye\n", NULL}, "bye\n", 0, 1, ETIMEDOUT},
    [BABBLER] = {{"ok\n", "0123456789012345678901234567890123456789"},
                 "ok\n", 0, 1, EMSGSIZE},
    [STAYER] = {{"stay\n", NULL}, "stay\n", 0, 0, 0},
    [LOCAL] = {{"uni", "x\n", NULL}, "unix\n", 1, 0, 0},
};

int scene_is_secure;
buffer bulk;

void make_bulk(void)
{
    fill(&bulk, 300000, 1);
    for (size_t i = 0; i < bulk.size; i++)
        bulk.bytes[i] = (uint8_t)('a' + bulk.bytes[i] % 16);
    bulk.bytes[bulk.size - 1] = '\n';
}

void drop_bulk(void)
{
    release(&bulk);
}

/* --- calls of the core, in which faults are ----------------------------- */

#define IN_CORE(what) (inject_pause(0), result = (what), inject_pause(1))

int explained(int error)
{
    return injected_error(error) ||
           (injected_now && (error == ECONNRESET || error == ETIMEDOUT ||
                             error == EADDRINUSE));
}

/* The same of an end: who loses a peer over TLS finds its stream cut. */
static int is_explained_end(int error)
{
    return explained(error) ||
           (scene_is_secure && injected_now && error == EPROTO);
}

/* What failed for want of something is had the second time. */
#define AGAIN(what) \
    do { \
        int result; \
        int64_t until_ = deadline(); \
        do { \
            IN_CORE(what); \
            CHECK(result <= 0); \
            CHECK(!result || explained(-result)); \
            CHECK(pmx__now() < until_); \
        } while (result); \
    } while (0)

static int open_mux(scene *s)
{
    s->w.arena = s->w.arena ? s->w.arena : pmx_arena_new(262144, 64);
    return !s->w.arena ? -ENOMEM
                       : pmx_open(&s->w.mux, test_backend, 64, 262144, 0);
}

static int listen_at(scene *s, const char *host, const char *path,
                     const pmx_policy *policy, uint64_t *id)
{
    pmx_endpoint at = {.host = host, .path = path,
                       .path_size = path ? (uint32_t)strlen(path) : 0};
    return pmx_listen(s->w.mux, &at, policy, 100, host != NULL, 0666, id);
}

static int listen_beside(scene *s, uint64_t beside, uint64_t *id)
{
    pmx_endpoint at = {.host = "127.0.0.1"};
    return pmx_listen_beside(s->w.mux, &at, beside, 100, 1, id);
}

static uint32_t port_of(scene *s, uint64_t listener)
{
    pmx_address name;
    EQUAL(pmx_listener_address(s->w.mux, listener, &name), 0);
    return name.port;
}

static void serve(scene *s)
{
    pmx_policy loose = lines("\n", 1 << 20), strict = lines("\n", 20);
    uint64_t beside;
    strict.idle_ns = 100 * MS;
    strict.close_ns = 100 * MS;
    if (scene_is_secure) {
        toy_use();
        toy_ways.tickets = 1;
        loose.tls = strict.tls = 7;
    }
    AGAIN(open_mux(s));
    AGAIN(listen_at(s, "127.0.0.1", NULL, &loose, &s->loose));
    AGAIN(listen_at(s, "127.0.0.1", NULL, &strict, &s->strict));
    AGAIN(listen_beside(s, s->strict, &beside));
    AGAIN(listen_at(s, NULL, s->path, &loose, &s->local));
    s->ports[0] = port_of(s, s->loose);
    s->ports[1] = port_of(s, s->strict);
    for (uint32_t i = 0; i < s->w.mux->listener_count; i++)
        set_room(s->w.mux->listeners[i].sock, SO_SNDBUF, 65536);
}

/* --- the mux ------------------------------------------------------------ */

static void note_opened(scene *s, uint64_t id)
{
    pmx_address names[2];
    if (id == s->out || id == s->self) {
        say_text(&s->w, id, id == s->out ? "away" : "self");
        return;
    }
    EQUAL(pmx_addresses(s->w.mux, id, names), 0);
    if (names[0].family == 1 && names[0].path_size)
        s->clients[LOCAL].id = id;
    for (int i = 0; i < CLIENTS; i++)
        if (names[0].family == 4 && s->clients[i].port == names[0].port)
            s->clients[i].id = id;
}

static void note_closed(scene *s, const pmx_closed *row)
{
    int *error = row->id == s->out ? &s->out_error : &s->self_error;
    int wanted = 0;
    s->out_is_closed |= row->id == s->out;
    s->self_is_closed |= row->id == s->self;
    for (int i = 0; i < CLIENTS; i++)
        if (s->clients[i].id == row->id) {
            wanted = script[i].error;
            error = &s->clients[i].error;
            s->clients[i].is_closed = 1;
        }
    *error = *error ? *error : row->error;
    CHECK(row->error == wanted || is_explained_end(row->error));
    s->lost += row->error != wanted;
}

/* A handshake that has failed. */
static void note_failed(scene *s, const pmx_closed *row)
{
    client *found = NULL;
    CHECK(is_explained_end(row->error));
    for (int i = 0; i < CLIENTS; i++)
        if (row->names && row->names[0].family == 4 &&
            s->clients[i].port == row->names[0].port)
            found = &s->clients[i];
    if (found)
        found->error = row->error;
    else
        s->nameless++;
    s->lost++;
}

static void take_message(scene *s, uint64_t id, const uint8_t *bytes,
                         size_t size)
{
    if (id == s->out || id == s->self) {
        uint64_t *said = id == s->out ? &s->out_said : &s->self_said;
        /* a line that its connection's end has cut short is delivered too */
        CHECK(size <= 4);
        CHECK(!memcmp(bytes, id == s->out ? "away" : "self", size));
        *said += size == 4;
        do_op(&s->w, id, PMX_CLOSE);
        return;
    }
    say(&s->w, id, bytes, size);
    if (size == 3 && !memcmp(bytes, "bye", 3))
        do_op(&s->w, id, PMX_CLOSE);
}

static int harvest(scene *s)
{
    world *w = &s->w;
    pmx_block block = {
        .cut = PMX_LENGTHS, .count = w->log_count,
        .ids = (const uint64_t *)(const void *)w->ids.bytes,
        .bounds = w->lengths.bytes,
        .data = w->out.bytes, .size = w->out.size,
    };
    w->t = (pmx_turn){
        .mux = w->mux, .arena = w->arena, .blocks = &block,
        .block_count = w->log_count ? 1 : 0, .timeout_ns = 25 * MS,
    };
    /* once in a while a batch waits, or is put off */
    (void)pmx_configure(w->mux, 0, w->turns % 7 == 3 ? 100 : 1, 5 * MS, 0);
    if (w->turns++ % 5 == 4)
        w->t.timeout_ns = PMX_LOOK;
    int result;
    IN_CORE(pmx_harvest(&w->t));
    w->log_count = 0;
    w->ids.size = w->lengths.size = w->out.size = 0;
    toy_adopt(w->mux, &w->t);
    return result;
}

static void take_turn(scene *s)
{
    world *w = &s->w;
    int reason = harvest(s);
    CHECK(!injected_stuck);
    if (reason < 0) {           /* a wait has failed, and nothing else */
        CHECK(explained(-reason));
        return;
    }
    const pmx_arena *a = w->t.arena;
    for (uint32_t k = 0; k < w->t.opened_count; k++)
        note_opened(s, w->t.opened[k]);
    for (uint32_t k = 0; k < w->t.messages; k++)
        take_message(s, a->ids[k], a->data + a->offsets[k],
                     (size_t)(a->offsets[k + 1] - a->offsets[k]) - a->gap);
    if (reason & PMX_LARGE) {
        pmx_arena_free(w->large);
        w->large = w->t.arena;
    }
    for (uint32_t k = 0; k < w->t.closed_count; k++)
        note_closed(s, &w->t.closed[k]);
    for (uint32_t k = 0; k < w->t.failed_count; k++)
        note_failed(s, &w->t.failed[k]);
    s->drained |= reason & PMX_DRAINED;
}

static void go_out(scene *s)
{
    pmx_policy policy = lines("\n", 100);
    pmx_endpoint away[] = {{.host = "127.0.0.1", .port = 1,
                            .source = "127.0.0.1"},
                           {.host = "127.0.0.1", .port = s->remote_port}};
    pmx_endpoint own = {.path = s->path,
                        .path_size = (uint32_t)strlen(s->path)};
    policy.tls = scene_is_secure ? 7 : 0;
    AGAIN(pmx_connect(s->w.mux, away, 2, &policy, &s->out));
    AGAIN(pmx_connect(s->w.mux, &own, 1, &policy, &s->self));
}

/* --- the scene ---------------------------------------------------------- */

static void begin(scene *s)
{
    struct sockaddr_in name = {.sin_family = AF_INET};
    static int count;
    memset(s, 0, sizeof *s);
    snprintf(s->path, sizeof s->path, "/tmp/pymux-faults-%d-%d", getpid(),
             count++);
    s->visitor = PMX__NO_SOCK;
    s->remote = socket(AF_INET, SOCK_STREAM, 0);
    name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    CHECK(!bind(s->remote, (struct sockaddr *)&name, sizeof name));
    CHECK(!listen(s->remote, 10) && !pmx__prepare(s->remote));
    s->remote_port = own_port(s->remote);
}

static int all_done(const scene *s)
{
    const pmx_stats *counts = pmx_counts(s->w.mux);
    const client *stayer = &s->clients[STAYER];
    if (!s->self)
        return 0;
    for (int i = 0; i < CLIENTS; i++)
        if (s->clients[i].said > 0 && i != STAYER)
            return 0;
    return s->out_is_closed && s->self_is_closed &&
           counts->connections == (stayer->id && !stayer->is_closed);
}

/* Without memory a Unix peer has no name to be told by; and who waits when the
 * server stops is not taken in where it has nothing to do that with. */
static int is_missed(int i)
{
    if (i == STAYER && (injected_error(EMFILE) || injected_error(ENFILE) ||
                        injected_error(ENOBUFS)))
        return 1;
    return (i == STAYER || i == LOCAL) && injected_error(ENOMEM);
}

/* Whose bytes are not all there, or who was not served to the end: none of
 * them in silence. What is there is right as far as it goes. */
static int harmed(const scene *s)
{
    int count = !s->out_said + !s->self_said;
    int refused = (int)pmx_counts(s->w.mux)->refused + s->nameless;
    for (int i = 0; i < CLIENTS; i++) {
        const client *c = &s->clients[i];
        buffer wanted = i == BULK ? bulk : (buffer){
            (uint8_t *)(uintptr_t)script[i].answer, strlen(script[i].answer),
            0};
        const buffer *got = scene_is_secure ? &c->heard.plain : &c->got;
        CHECK(got->size <= wanted.size);
        CHECK(!got->size || !memcmp(got->bytes, wanted.bytes, got->size));
        if (i == BREAKER)       /* it does not wait for its answer */
            continue;
        if (got->size == wanted.size && c->said <= 0)
            continue;
        CHECK(c->id || c->error ? c->error : refused-- > 0 || is_missed(i));
        count++;
    }
    CHECK(s->out_said || s->out_error);
    CHECK(s->self_said || s->self_error || refused > 0);
    CHECK(s->out_said <= 1 && s->self_said <= 1);
    return count;
}

static void end(scene *s)
{
    world *w = &s->w;
    for (int i = 0; i < CLIENTS; i++) {
        if (s->clients[i].sock >= 0)
            leave(s->clients[i].sock);
        release(&s->clients[i].got);
        release(&s->clients[i].out);
        toy_forget(&s->clients[i].heard);
    }
    if (s->visitor >= 0)
        leave(s->visitor);
    leave(s->remote);
    release(&s->from_mux);
    toy_forget(&s->heard_from_mux);
    const pmx_stats *counts = pmx_counts(w->mux);
    EQUAL(counts->connections, 0);
    EQUAL(counts->queued, 0);
    EQUAL(counts->buffers, 0);
    EQUAL(counts->listeners, 0);
    inject_pause(0);
    pmx_close(w->mux);
    pmx_arena_free(w->arena);
    inject_nothing();
    inject_haste(0);
    (void)unlink(s->path);
    toy_over();
    w->mux = NULL;
    w->arena = NULL;
    pmx_arena_free(w->large);
    release(&w->ids);
    release(&w->lengths);
    release(&w->out);
}

int play(scene *s)
{
    inject_pause(1);
    begin(s);
    inject_haste(1);
    serve(s);
    arrive(s);
    int64_t until = pmx__now() + 120000 * MS;   /* which pass in no time */
    for (int step = 0; !all_done(s); step++) {
        CHECK(pmx__now() < until);
        for (int i = 0; i < CLIENTS; i++)
            act(s, i);
        act_remote(s);
        if (step == 1)          /* behind the first that are accepted */
            go_out(s);
        if (step == 5) {
            int result;
            IN_CORE(pmx_wakeup(s->w.mux));
            EQUAL(result, 0);
        }
        take_turn(s);
    }
    pmx_drain(s->w.mux);
    while (pmx_counts(s->w.mux)->connections || s->w.mux->report_count ||
           pmx_counts(s->w.mux)->listeners) {
        CHECK(pmx__now() < until);
        act(s, STAYER);
        take_turn(s);
    }
    act(s, STAYER);
    CHECK(s->drained);
    int count = harmed(s);
    end(s);
    return count;
}
#else
typedef int scene_is_for_unix;  /* a file must not be empty */
#endif
