/* Options, and the files of Unix sockets, in memory: see sim.h. */
#ifdef __linux__
#include "sim_parts.h"

#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>

/* Names of Unix sockets in the file system. */
enum { PATHS = 64 };
static struct {
    char path[108];
    uint64_t inode;
} paths[PATHS];

static uint64_t next_inode;

void sim_no_paths(void)
{
    memset(paths, 0, sizeof paths);
    next_inode = 1;
}

static int place_of(const char *path, size_t size)
{
    for (int i = 0; i < PATHS; i++)
        if (paths[i].inode && !strncmp(paths[i].path, path, size))
            return i;
    return -1;
}

/* The inode that a path names, or 0. */
uint64_t sim_inode(const char *path, size_t size)
{
    int place = place_of(path, size);
    return place < 0 ? 0 : paths[place].inode;
}

/* A new one, which is the socket's. */
int sim_make_file(sim_sock *s, const char *path, size_t size)
{
    int i = 0;
    if (place_of(path, size) >= 0)
        return sim_fails(EADDRINUSE);
    while (i < PATHS && paths[i].inode)
        i++;
    if (i == PATHS)
        return sim_fails(ENOSPC);
    memcpy(paths[i].path, path, size);
    s->inode = paths[i].inode = next_inode++;
    return 0;
}

int sim_setsockopt(int fd, int level, int option, const void *value,
                   socklen_t size)
{
    sim_sock *s = sim_no_pipe(fd);
    if (!s)
        return -1;
    if (level == SOL_SOCKET && option == SO_LINGER) {
        struct linger is;
        CHECK(size == sizeof is);
        memcpy(&is, value, sizeof is);
        s->linger0 = is.l_onoff && !is.l_linger;
    }
    return 0;
}

int sim_getsockopt(int fd, int level, int option, void *value,
                   socklen_t *size)
{
    sim_sock *s = sim_no_pipe(fd);
    if (!s)
        return -1;
    if (level == SOL_SOCKET && option == SO_PEERCRED) {
        const int32_t us[3] = {1, 2, 3};
        CHECK(*size == sizeof us && !sim_is_tcp(s));
        memcpy(value, us, sizeof us);
        return 0;
    }
    CHECK(level == SOL_SOCKET && *size == sizeof(int));
    CHECK(option == SO_ERROR || option == SO_TYPE || option == SO_ACCEPTCONN);
    int is = option == SO_ERROR ? sim_take_error(s)
           : option == SO_TYPE ? SOCK_STREAM : s->state == SIM_LISTENING;
    memcpy(value, &is, sizeof is);
    return 0;
}

int sim_ioctl(int fd, unsigned long request, int *value)
{
    const sim_sock *s = sim_sock_of(fd);
    if (!s)
        return -1;
    if (s->state == SIM_LISTENING)
        return sim_fails(EINVAL);
    CHECK(request == FIONREAD || request == SIOCOUTQ);
    if (request == SIOCOUTQ && s->is_pipe)
        return sim_fails(ENOTTY);
    if (request == SIOCOUTQ && sim_now.untold)
        return sim_fails(EINVAL);
    size_t before = sim_before_urgent(s), held = sim_held(&s->in);
    if (request == FIONREAD)
        *value = (int)(before < held ? before : held);
    else if (sim_is_tcp(s))
        *value = (int)sim_held(&s->out) + (s->ends && !s->end_arrived &&
                                       s->state == SIM_OPEN);
    else
        *value = s->other ? (int)sim_held(&s->other->in) : 0;
    return 0;
}

int sim_fcntl(int fd, int command, int argument)
{
    const sim_sock *s = sim_sock_of(fd);
    (void)argument;
    return !s ? -1 : command == F_GETFL && s->is_pipe == SIM_WRITE_END
                   ? O_WRONLY : 0;
}

int sim_fstat(int fd, struct stat *info)
{
    const sim_sock *s = sim_sock_of(fd);
    if (!s)
        return -1;
    memset(info, 0, sizeof *info);
    info->st_mode = s->is_pipe ? S_IFIFO : S_IFSOCK;
    return 0;
}

int sim_openat(int directory, const char *path, int flags)
{
    (void)directory, (void)path, (void)flags;
    return sim_number_for(NULL, NULL);
}

/* A directory is not shared between processes, so nobody else has its lock. */
int sim_flock(int fd, int what)
{
    (void)what;
    CHECK(sim_files[fd].is_directory);
    return 0;
}

/* Where a name stands, in whatever directory. */
static int place_in(int directory, const char *name)
{
    CHECK(sim_files[directory].is_directory);
    for (int i = 0; i < PATHS; i++) {
        const char *slash = strrchr(paths[i].path, '/');
        if (paths[i].inode && !strcmp(slash ? slash + 1 : paths[i].path, name))
            return i;
    }
    errno = ENOENT;
    return -1;
}

int sim_fstatat(int directory, const char *path, struct stat *info, int flags)
{
    int place = place_in(directory, path);
    (void)flags;
    if (place < 0)
        return -1;
    memset(info, 0, sizeof *info);
    info->st_mode = S_IFSOCK;
    info->st_dev = 1;
    info->st_ino = (ino_t)paths[place].inode;
    return 0;
}

int sim_unlinkat(int directory, const char *path, int flags)
{
    int place = place_in(directory, path);
    (void)flags;
    if (place < 0)
        return -1;
    memset(&paths[place], 0, sizeof *paths);
    return 0;
}

int sim_fchmodat(int directory, const char *path, mode_t mode, int flags)
{
    (void)mode, (void)flags;
    return place_in(directory, path) < 0 ? -1 : 0;
}

int sim_fchmod(int fd, mode_t mode)
{
    (void)mode;
    return sim_sock_of(fd) ? 0 : -1;
}

int sim_sched_getaffinity(int process, size_t size, void *set)
{
    (void)process;
    CPU_ZERO_S(size, (cpu_set_t *)set);
    CPU_SET_S(0, size, (cpu_set_t *)set);
    CPU_SET_S(1, size, (cpu_set_t *)set);
    return 0;
}
#else
typedef int sim_files_on_linux;   /* a file must not be empty */
#endif
