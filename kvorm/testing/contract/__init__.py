"""The contract: every clause of `guarantees.md` as checks that run on any store.

A check is a plain async function of a `Harness` (see `harness.py`); its name begins with the clauses it holds the store
to, `api` where it is the public API without a number. `CHECKS` run on every store, `SERVER_CHECKS` on real servers.

    async with MemoryHarness() as harness:
        await check(harness)
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from kvorm.testing.contract import (
    buckets,
    bulk,
    expiry,
    foreign,
    listing,
    loading,
    marks,
    reads,
    refusals,
    resources,
    server,
    stamps,
    updates,
    view_life,
    views,
    watching,
    wire,
    writes,
)
from kvorm.testing.contract.harness import Check, Harness, ServerCheck, ServerHarness

CHECKS: Final[tuple[Check, ...]] = (
    writes.w2_a_refused_write_stores_nothing,
    writes.w4_a_revision_must_be_the_latest,
    writes.w4_absent_means_no_live_value,
    writes.w4_absent_counts_foreign_markers,
    writes.w4_one_of_many_creators_wins,
    writes.w4_any_always_stores,
    writes.w4_expect_is_any_absent_or_a_revision,
    writes.w5_a_conflict_says_what_was_expected,
    writes.w5_a_conflict_carries_what_is_there,
    writes.w5_one_of_many_writers_wins_and_the_others_learn_of_it,
    writes.w5_racing_restores_conflict,
    writes.w6_a_failed_write_leaves_the_object,
    writes.w6_a_successful_write_changes_the_stamp_alone,
    writes.w7_checked_saves_add_up,
    refusals.w8_a_declared_size_holds_to_the_byte,
    refusals.w8_the_servers_size_holds_to_the_byte,
    refusals.w8_a_raw_key_has_at_most_1024_bytes,
    refusals.w8_a_key_that_cannot_be_formed_is_refused,
    refusals.w8_a_value_that_cannot_be_encoded_is_refused,
    refusals.w10_nothing_is_stored_that_does_not_read_back,
    refusals.w10_nothing_is_stored_that_reads_back_under_another_key,
    updates.w7_updates_add_up,
    updates.w5_update_gives_up_with_its_budget,
    updates.w5_update_retries_from_what_is_there,
    updates.w6_update_stores_nothing_it_was_not_told,
    updates.w4_get_or_create_stores_at_most_once,
    bulk.w9_each_item_is_checked_and_stamped,
    bulk.w9_an_item_fails_alone,
    bulk.w9_twins_send_nothing,
    bulk.w9_a_cancelled_call_tells_the_truth,
    bulk.w9_objects_and_keys_are_deleted_together,
    bulk.w9_a_delete_fails_alone,
    bulk.w9_twins_delete_nothing,
    loading.api_load_stores_what_an_iterable_yields,
    loading.api_load_neither_checks_nor_stamps,
    loading.w8_w10_load_stops_before_what_cannot_be_stored,
    loading.api_load_lets_the_errors_of_its_iterable_through,
    loading.api_load_into_a_full_bucket_stops,
    loading.api_load_into_a_bucket_of_another_client,
    loading.api_load_holds_a_few_at_a_time,
    loading.api_a_cancelled_load_has_told_the_truth,
    marks.w4_delete_expects_the_revision_of_the_object,
    marks.w4_delete_of_an_object_never_read,
    marks.w4_delete_by_key_takes_what_is_there,
    marks.w5_delete_by_key_never_conflicts,
    marks.w6_a_deleted_object_can_be_saved_again,
    marks.w4_a_deleted_object_is_not_deleted_again,
    marks.r4_delete_keeps_the_history_and_purge_erases_it,
    marks.w4_restore_stores_an_old_revision_anew,
    marks.w4_restore_refuses_what_is_no_revision_of_the_key,
    stamps.w4_every_read_stamps,
    stamps.w4_copies_keep_their_revision,
    stamps.w4_assignment_keeps_an_object_clean,
    stamps.w4_nothing_shows_the_stamp,
    stamps.w4_a_parsed_object_counts_as_never_saved,
    stamps.w4_another_bucket_does_not_know_the_revision,
    stamps.w4_another_store_of_the_bucket_does,
    stamps.w4_a_changed_key_counts_as_never_saved,
    stamps.w4_a_bucket_made_anew_does_not_know_the_revision,
    stamps.w4_a_new_store_of_a_bucket_made_anew_does_not_either,
    stamps.w4_a_deleted_bucket_is_not_made_anew_by_the_way,
    stamps.w4_a_model_of_keys_alone_is_stamped_too,
    reads.r1_get_returns_the_latest,
    reads.r1_an_entry_tells_its_place,
    reads.r1_nothing_live_is_not_found,
    reads.r3_a_revision_is_exactly_that,
    reads.r4_history_is_every_kept_change,
    reads.r4_history_goes_to_64,
    reads.r4_history_is_of_one_moment,
    reads.r4_history_shows_nothing_that_a_purge_erased,
    reads.r5_lists_have_every_live_key_once,
    reads.r5_a_key_of_a_list_can_be_read,
    reads.r6_get_many_answers_in_order,
    listing.r5_lists_are_exact_while_others_write,
    listing.r5_a_list_may_be_limited_and_narrowed,
    listing.r5_heads_tell_all_but_the_value,
    listing.r5_pages_have_every_entry_once,
    listing.r5_what_is_written_between_pages_may_come_later,
    listing.r5_what_a_page_reads_can_be_saved,
    listing.r7_invalid_bytes_hide_nobody_else_on_pages,
    listing.r5_lists_of_a_model_that_shares_its_bucket,
    listing.r5_a_bucket_made_anew_ends_its_lists,
    listing.c3_lists_leave_nothing,
    foreign.r7_invalid_bytes_never_come_back_as_something_else,
    foreign.r7_invalid_bytes_hide_nobody_else,
    foreign.r7_other_codecs_and_schemas_are_invalid,
    foreign.r8_foreign_keys_count_if_they_are_canonical,
    foreign.r8_raw_keys_of_kvorm_itself_are_invisible,
    expiry.e1_a_lifetime_ends_in_a_marker,
    expiry.e1_an_expired_key_can_be_created_in_every_way,
    expiry.e2_an_older_revision_never_comes_back,
    expiry.e2_a_deleted_key_does_not_come_back,
    wire.i1_values_are_plain_json,
    wire.i1_the_headers_are_a_closed_set,
    wire.i1_values_of_others_are_read,
    wire.i1_markers_of_others_are_understood,
    wire.i1_any_bucket_of_a_kv_client_will_do,
    wire.i2_hostile_keys_stay_themselves,
    wire.i2_one_key_has_one_spelling,
    wire.i2_a_prefix_is_not_left,
    wire.i3_a_model_comes_back_as_it_was,
    wire.i3_notes_of_any_text_come_back,
    buckets.api_models_share_a_bucket_by_prefix,
    buckets.api_models_that_clash_are_refused,
    buckets.api_a_single_entry_has_no_key,
    buckets.api_a_namespace_precedes_bucket_names,
    buckets.api_a_repository_may_name_its_bucket,
    buckets.api_a_missing_bucket_is_made_at_first_use,
    buckets.api_create_buckets_can_be_turned_off,
    buckets.api_a_difference_is_told,
    buckets.api_what_is_not_said_is_accepted,
    buckets.api_a_difference_can_be_applied,
    buckets.api_what_cannot_be_changed_changes_nothing,
    buckets.api_a_full_bucket_refuses,
    watching.s4_the_state_then_caught_up_then_changes,
    watching.s4_caught_up_comes_once,
    watching.s1_s2_revisions_rise_and_none_comes_twice,
    watching.s4_a_watch_sees_its_filter_alone,
    watching.s5_since_goes_on_after_a_revision,
    watching.s5_where_it_cannot_go_on_it_starts_over,
    watching.s5_a_running_watch_starts_over_with_its_bucket,
    watching.s5_history_replays_every_kept_change,
    watching.s4_values_are_the_live_models,
    watching.s7_leaving_a_watch_leaves_nothing,
    watching.s7_closing_the_store_ends_its_watches,
    watching.s7_a_deleted_bucket_ends_its_watches,
    views.s8_a_view_follows_the_bucket,
    views.s8_wait_for_returns_for_any_revision,
    views.s8_a_view_reads_as_a_mapping,
    views.s8_what_a_view_hands_out_is_the_readers,
    views.s8_immutable_objects_are_shared,
    views.s8_a_view_looks_up_by_a_field,
    views.s8_r7_what_does_not_decode_sits_in_invalid,
    view_life.s5_s8_a_bucket_made_anew_is_loaded_anew,
    view_life.e1_s8_expired_entries_leave_a_view,
    view_life.e1_s8_a_lifetime_of_its_own_ends_in_a_view,
    view_life.s7_leaving_a_view_leaves_nothing,
    view_life.s7_s8_a_view_that_cannot_go_on_says_so,
    view_life.api_a_watch_tells_how_far_it_is,
    resources.c1_an_import_starts_nothing,
    resources.c2_a_closed_store_does_nothing_more,
    resources.c2_closing_leaves_no_task,
)
"""Those for every store."""

SERVER_CHECKS: Final[tuple[ServerCheck, ...]] = (
    server.i1_a_created_bucket_is_a_plain_kv_bucket,
    server.i1_a_higher_layout_is_unsupported,
    server.i1_nats_py_and_kvorm_understand_each_other,
    server.c2_a_store_closes_only_its_own_connection,
    server.s7_losing_the_connection_for_good_ends_watches,
    server.s7_losing_the_connection_for_good_ends_views,
    server.s3_a_view_notices_what_went_while_it_was_blind,
    server.w8_an_oversize_write_leaves_the_connection,
    server.c3_reads_leave_no_consumer,
)
"""Those that need a real server."""


_CLAUSE = re.compile(r"([a-z]\d+)_")


def clauses(check: Callable[..., Any]) -> list[str]:
    """Return the clauses that a check's name tells, such as "W4"; none for the public API."""
    found: list[str] = []
    rest = check.__name__
    while match := _CLAUSE.match(rest):
        found.append(match[1].upper())
        rest = rest[match.end() :]
    return found


__all__ = ["CHECKS", "SERVER_CHECKS", "Check", "Harness", "ServerCheck", "ServerHarness", "clauses"]
