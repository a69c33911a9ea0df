/* The backends, best first, and opening one. */
#include "poller.h"

#include <errno.h>
#include <string.h>

static const pmx__poller *const pollers[] = {
#ifdef __linux__
    &pmx__epoll,
#endif
#ifdef PMX_HAVE_KQUEUE
    &pmx__kqueue,
#endif
#ifndef _WIN32
    &pmx__poll,
#endif
    &pmx__select,
};

enum { COUNT = sizeof pollers / sizeof *pollers };

const char *pmx_backend_name(uint32_t index)
{
    return index < COUNT ? pollers[index]->name : NULL;
}

/* True if this is no failure of the poller: the next one would have it too. */
static int is_short(int error)
{
    return error == -EMFILE || error == -ENFILE || error == -ENOMEM;
}

int pmx__poller_open(const char *name, int level, const pmx__poller **poller,
                     void **state)
{
    int error = -EINVAL;
    *poller = NULL;
    for (uint32_t i = 0; i < COUNT; i++) {
        if (name && strcmp(name, pollers[i]->name) != 0)
            continue;
        error = pollers[i]->open(state, level);
        if (!error) {
            *poller = pollers[i];
            return 0;
        }
        if (is_short(error))
            return error;
    }
    return error;
}

int pmx_backend_probe(const char *name)
{
    const pmx__poller *poller;
    void *state;
    pmx__event events[4];
    pmx_sock pair[2];
    int error = pmx__net_start();
    if (!error)
        error = pmx__poller_open(name, 0, &poller, &state);
    if (error)
        return error;
    error = pmx__wakeup_open(pair);
    if (error)
        goto close_poller;
    /* both directions of one descriptor, unless it is a pipe's end */
    uint32_t what = 0;
    uint32_t wanted = pmx__sock_error(pair[0]) ? PMX__IN : PMX__IN | PMX__OUT;
    error = poller->add(state, pair[0], 7, wanted);
    if (error)
        goto close_pair;
    pmx__wakeup_send(pair);
    int n = poller->wait(state, events, 4, 0);
    for (int i = 0; i < n; i++)
        what |= events[i].token == 7 ? events[i].what : 0;
    error = (what & wanted) == wanted ? 0 : n < 0 ? n : -ENOSYS;
    poller->del(state, pair[0]);
close_pair:
    pmx__wakeup_close(pair);
close_poller:
    poller->close(state);
    return error;
}
