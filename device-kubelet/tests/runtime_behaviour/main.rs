//! What every runtime must do, run against the one in memory and against a real Podman.
//!
//! The cases of [`cases`] know only the trait. Those of [`on_podman`] need real processes, networks and files, those of
//! [`pulls`] a [`registry`] too.
//! For Podman the test starts a service of its own ([`podman_service`]), as root. `make podman5` runs all of it on
//! Podman 5. [`recording`] writes fixtures, when asked.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use std::sync::Arc;

mod cases;
mod device;
mod on_podman;
mod podman_service;
mod pulls;
mod recording;
mod registry;

/// Runs each named case of `cases` against the runtime in memory, as a test of its own.
macro_rules! in_memory {
    ($($case:ident),* $(,)?) => {
        mod in_memory {
            $(
                #[tokio::test(start_paused = true)]
                async fn $case() {
                    crate::cases::$case(crate::device::Device::in_memory()).await;
                }
            )*
        }

        /// The same cases as a list, for Podman.
        fn shared_cases() -> Vec<on_podman::Case> {
            vec![$(on_podman::case!(cases::$case)),*]
        }
    };
}

in_memory! {
    a_container_ends_with_its_exit_code,
    a_failing_command_is_not_a_failed_start,
    a_missing_command_fails_the_start,
    stop_lets_a_container_end_by_itself,
    stop_kills_after_the_grace,
    stop_waits_for_a_container_that_needs_its_time,
    stop_of_what_does_not_run_succeeds,
    remove_is_idempotent_and_kills,
    a_second_sandbox_of_a_pod_is_a_conflict,
    a_second_container_of_an_attempt_is_a_conflict,
    what_does_not_exist_is_not_found,
    a_new_agent_finds_everything_again,
    a_new_agent_hears_of_exits,
    an_exit_is_told,
    listing_by_pod_gives_that_pod_only,
    attempts_stand_side_by_side,
    logs_are_in_the_cri_format,
    a_reopened_log_goes_on_in_a_new_file,
    a_log_to_which_nobody_writes_is_not_reopened,
    images_are_found_by_name_and_id,
    a_failed_pull_says_why,
    a_stopped_sandbox_ends_its_containers_and_frees_its_port,
    a_taken_port_is_refused_and_leaves_nothing,
    a_removed_sandbox_leaves_nothing,
    start_is_idempotent_while_it_runs,
    the_runtime_names_itself,
}

/// One service, all cases: the service is torn down at the end, whatever failed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_podman() {
    let service = Arc::new(podman_service::PodmanService::start());
    let mut cases = shared_cases();
    cases.extend(on_podman::cases());
    cases.extend(pulls::cases());
    let failed = on_podman::run(&service, cases).await;
    drop(service);
    assert!(failed.is_empty(), "{} cases failed on Podman: {}", failed.len(), failed.join(", "));
}
