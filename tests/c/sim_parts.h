/* What the files of the system in memory share. */
#ifndef SIM_PARTS_H
#define SIM_PARTS_H

#include "sim.h"

enum { ALL_FDS = 2 * SIM_FDS };
enum { RECEIVES = 1, SENDS = 2 };
enum sim_state { SIM_IDLE, SIM_CALLING, SIM_OPEN, SIM_LISTENING, SIM_OVER };

typedef struct {
    uint8_t *is;
    size_t begin, end, room;
} sim_bytes;

/* What is sent over TCP stands in `out` until it arrives in the other end's
 * `in`; over a Unix socket it arrives at once. */
typedef struct sim_sock {
    struct sim_sock *next;
    struct sim_sock *other;     /* the other end, while there is one */
    int fd;                     /* -1: nobody's, any more or yet */
    int family;
    enum sim_state state;
    unsigned shut;              /* RECEIVES and SENDS no more */
    int error;                  /* to be told once */
    int ends, end_arrived;      /* its end: sent, and there */
    int done;                   /* the other's end has arrived */
    int no_room;                /* somebody was refused, and waits */
    int linger0, is_bound;
    enum { SIM_READ_END = 1, SIM_WRITE_END } is_pipe;   /* or 0 */
    sim_bytes in, out;
    size_t room_in, room_out;
    uint64_t sent, received;    /* bytes so far */
    uint64_t urgent, urgent_out;    /* bytes before it, + 1; 0: none */
    uint64_t rights_from, rights_to;    /* the message that a descriptor came
                                           with, from byte to byte; 0: none */
    int64_t delay, flows_at;

    int64_t call_at;            /* calling: when again */
    int call_lost, tries;
    int backlog, waiting;       /* listening */
    uint32_t turn;
    struct sim_sock *in_backlog;    /* of whom it waits to be accepted */

    uint64_t link;
    int port, calls;            /* its own, and the other end's */
    size_t name_size, call_size;
    char name[108], call[108];
    uint64_t inode;
} sim_sock;

typedef struct {
    struct epoll_event is;
    int listed, ready;
} sim_item;

typedef struct sim_epoll {
    struct sim_epoll *next;
    sim_item items[ALL_FDS];
    int ready[ALL_FDS];         /* whom something has happened to, in order */
    int count;
} sim_epoll;

typedef struct {
    sim_sock *sock;
    sim_epoll *epoll;
    int is_directory;
} sim_file;

extern sim_file sim_files[ALL_FDS];
extern sim_sock *sim_socks;
extern int64_t sim_time;

/* sim.c: descriptors and sockets */
int sim_fails(int error);       /* errno is that, and -1 */
int sim_number_for(sim_sock *sock, sim_epoll *epoll);   /* or a directory */
sim_sock *sim_sock_of(int fd);
sim_sock *sim_no_pipe(int fd);          /* the same for a socket's calls */
void sim_free(sim_sock *s);
int64_t sim_next_time(void);    /* when something happens by itself */
void sim_happen(void);          /* what is due */

/* sim_names.c */
void sim_no_names(void);
uint16_t sim_free_port(void);
sim_sock *sim_bound_to(const sim_sock *s);      /* whose name s calls */
uint16_t sim_port_in(const struct sockaddr *name);
/* A port or a path as an address; size is what there is room for, then what
 * the whole address takes. */
void sim_name_of(const sim_sock *s, int port, const char *path,
                 size_t path_size, struct sockaddr *name, socklen_t *size);

/* sim_stream.c */
size_t sim_held(const sim_bytes *b);
int sim_is_tcp(const sim_sock *s);
int sim_is_writable(const sim_sock *s);
int sim_take_error(sim_sock *s);
size_t sim_before_urgent(const sim_sock *s);
void sim_flow(sim_sock *s);     /* what is on its way arrives; */
void sim_leaves(sim_sock *s);   /* or begins to. Either may free s, and its */
void sim_lost(sim_sock *s, int error);  /* other end, where nobody has it */
void sim_reset(sim_sock *s);
void sim_is_over(sim_sock *s);
void sim_release(sim_sock *s);
void sim_disconnect(sim_sock *s);

/* sim_files.c */
void sim_no_paths(void);
uint64_t sim_inode(const char *path, size_t size);
int sim_make_file(sim_sock *s, const char *path, size_t size);

/* sim_wait.c: something has happened (0: anything), or a descriptor goes. */
void sim_wake(const sim_sock *s, uint32_t what);
void sim_forget(int fd);

#endif
