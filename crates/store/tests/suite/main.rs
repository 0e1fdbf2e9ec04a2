//! The store's promises, each tested on SQLite and on a real PostgreSQL, with blobs in a folder and in a real S3 server.
#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test that cannot go on says why by panicking"
)]

mod assets;
mod blobs;
mod bucket;
mod collected;
mod crash;
mod failures;
mod garbage;
mod operations;
mod place;
mod postgres;
mod records;
mod secrets;
mod tokens;
mod workspaces;

use std::{future::Future, pin::Pin};

use place::Place;

type Case = fn(Place) -> Pin<Box<dyn Future<Output = ()> + Send>>;

/// Every case is a test of its own on SQLite, and all of them together are one test on PostgreSQL, since starting a
/// server takes seconds.
macro_rules! on_both_databases {
    ($($module:ident { $($case:ident),+ $(,)? })+) => {
        mod sqlite {
            $(mod $module {
                $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    crate::$module::$case(crate::place::Place::sqlite()).await;
                })+
            })+
        }

        const CASES: &[(&str, Case)] = &[
            $($((concat!(stringify!($module), "_", stringify!($case)), |place| Box::pin($module::$case(place)))),+),+
        ];
    };
}

on_both_databases! {
    workspaces { come_and_go, go_with_their_contents_only_when_told }
    assets {
        count_their_versions, never_change, get_distinct_versions_at_once, need_their_blobs, are_listed_by_pages,
        are_found_by_digest, are_described_anew, leave_the_lists_when_archived, refuse_what_could_never_work,
        are_listed_by_the_thousand,
    }
    records {
        count_their_generations, are_created_once, are_updated_once_a_generation, keep_endpoints_unique,
        keep_deployments_under_endpoints, refuse_what_could_never_work, tell_of_their_changes,
    }
    operations { go_from_start_to_end, are_bounded, remember_their_phases, are_listed_newest_first }
    secrets { are_set_and_read, are_encrypted_at_rest, need_their_identity }
    tokens { are_verified, go_with_their_workspace }
    collected { is_listed_once_and_forgotten }
    garbage { goes_and_nothing_else, never_takes_what_is_being_registered }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_keeps_the_same_promises() {
    let Some(server) = postgres::Postgres::start() else { return };
    for (name, case) in CASES {
        eprintln!("postgres: {name}");
        let database = server.create_database(name).await;
        case(Place::on(database)).await;
    }
}
