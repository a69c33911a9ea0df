"""What `pytest --tls` runs over TLS: files, and the tests of those that stay out.

The other files are not about connections, or look at TCP, child processes and the
command line, or have tests over TLS of their own.
"""

import functools

FILES = """
    abort batch batch_sizes client client_close client_threads client_waits close
    connection fail flow flow_news flow_skip framing harvest idle idle_keeps_nothing
    later later_ends lifetime linger message_timeout pipelining reply reply_framing
    reply_mask retire rows server server_end services stop stop_time stopping switch
    threads
    handlers_batch handlers_coroutine handlers_coroutine_cleanup
    handlers_coroutine_contexts handlers_coroutine_deadlines handlers_coroutine_flow
    handlers_coroutine_spawn handlers_coroutine_spawn_ends
    handlers_coroutine_spawn_stop handlers_coroutine_sync
    handlers_coroutine_sync_ends handlers_coroutine_tasks
    handlers_coroutine_timeouts handlers_forms handlers_function handlers_hooks
    handlers_leave handlers_mistakes handlers_names handlers_object handlers_order
    handlers_raise
    aio_cancel aio_contexts aio_dropped aio_gather aio_handlers aio_hooks aio_later
    aio_raise aio_serve aio_spawn aio_stop aio_sync_ends aio_together aio_turns aio_wait
"""

# The quicker ones: all forms, ends, framings and limits.
QUICK = """
    abort client close connection flow framing harvest reply reply_framing server stop
    switch handlers_coroutine handlers_coroutine_flow handlers_forms handlers_order
    aio_gather aio_stop aio_turns
"""

# Reason -> the tests.
PLAIN = {
    "a stop closes those that have not shaken hands, and serves no backlog": """
        test_stop.py::test_who_is_in_the_backlog_is_accepted_and_answered
        test_stop.py::test_the_backlog_is_accepted_even_over_max_connections
        test_stop_time.py::test_closed_is_called_for_every_connection
        test_stop_time.py::test_stop_without_time_resets_a_long_backlog
        test_handlers_coroutine_flow.py::test_drain_raises_when_the_end_waits_to_be_reported
        test_handlers_leave.py::test_closed_is_called_for_every_connection_of_a_server_that_is_left
        test_aio_stop.py::test_stop_answers_what_has_arrived_and_closes
        test_aio_stop.py::test_the_loop_may_end_before_the_server_has_stopped
        test_aio_stop.py::test_handlers_are_cancelled_once_and_clean_up_in_peace
        test_aio_stop.py::test_handlers_that_are_reset_in_the_end_see_closed_connections
    """,
    "a handshake takes turns: what opens at once in the plain test does not": """
        test_handlers_coroutine_spawn_stop.py::test_all_end_with_a_server_that_another_handler_ends
        test_aio_handlers.py::test_drain_raises_when_the_loss_waits_to_be_reported
        test_aio_stop.py::test_ctrl_c_in_a_handler_leaves_run
        test_aio_stop.py::test_stop_cancels_handlers_when_its_time_is_over
        test_aio_stop.py::test_a_handler_is_told_whether_a_stop_has_cut_its_input
    """,
    "a handshake needs both sides, and the test harvests one": """
        test_threads.py::test_two_muxes_in_one_thread_do_not_meet
    """,
    "the client's end is a socket that the test itself makes": """
        test_handlers_raise.py::test_whatever_an_objects_method_raises_ends_its_own_connection
        test_stopping.py::test_connections_that_the_server_made_are_not_cut
    """,
    "its server is a child process, without TLS": """
        test_stop_time.py::test_an_abandoned_call_does_not_hold_up_the_end_of_the_process
    """,
    "what the kernel has refused is queued as ciphertext, which is more": """
        test_server.py::test_stats_count_what_waits_for_the_kernel_once
        test_pipelining.py::test_what_the_peer_has_taken_makes_room
    """,
    "a client has waited for its handshake, and waiting takes two descriptors": """
        test_client.py::test_another_thread_may_close
        test_client_threads.py::test_close_in_another_thread_ends_what_waits
        test_client_threads.py::test_send_eof_that_waits_is_ended_too
        test_client_threads.py::test_close_returns_when_the_thread_inside_has_closed
        test_client_threads.py::test_many_threads_may_close_at_once
        test_client_threads.py::test_a_close_beside_a_close_waits_for_it
        test_client_waits.py::test_a_client_that_does_not_wait_takes_one_descriptor
    """,
}


@functools.cache
def why_plain():
    """{"file::test": why it stays out}."""
    return {name: why for why, names in PLAIN.items() for name in names.split()}


def runs_over_tls(item, quick):
    """Whether a collected test is one of those."""
    path, name = item.path.name, getattr(item, "originalname", item.name)
    chosen = (QUICK if quick else FILES).split()
    if path.removeprefix("test_").removesuffix(".py") not in chosen:
        return False
    return f"{path}::{name}" not in why_plain()
