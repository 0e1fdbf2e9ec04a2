//! Operations: from start to end, within their bounds.

use moorline_core::ErrorClass;
use moorline_store::{
    FINISHED_OPERATIONS_KEPT, NewOperation, OPERATION_LINES_KEPT, OPERATION_PHASES_KEPT, OperationPart,
    OperationState, OperationUpdate,
};
use serde_json::json;

use crate::place::{Place, default};

fn new() -> NewOperation {
    NewOperation { workspace: default(), kind: "create".to_owned(), subject: "iris/blue".to_owned() }
}

pub(crate) async fn go_from_start_to_end(place: Place) {
    let store = place.open().await;
    let begun = store.create_operation(new()).await.unwrap();
    assert_eq!(
        (begun.state, begun.finished_at, begun.phase.as_deref()),
        (OperationState::Running, None, None)
    );
    let update = OperationUpdate {
        phase: Some("environment".to_owned()),
        log: vec!["one".to_owned(), "two\u{0}".to_owned()],
        ..OperationUpdate::default()
    };
    let updated = store.update_operation(&begun.id, update).await.unwrap();
    assert_eq!(updated.phase.as_deref(), Some("environment"));
    let update = OperationUpdate { log: vec!["é".repeat(5000)], ..OperationUpdate::default() };
    let updated = store.update_operation(&begun.id, update).await.unwrap();
    assert_eq!(updated.log, ["one", "two\u{fffd}", &"é".repeat(2048)]);
    assert_eq!(updated.phase.as_deref(), Some("environment"));
    let running = store.running_operations().await.unwrap();
    assert_eq!((running.len(), &running[0].id), (1, &begun.id));
    let update = OperationUpdate {
        state: Some(OperationState::Failed),
        error: Some(json!({"detail": "no"})),
        ..OperationUpdate::default()
    };
    let ended = store.update_operation(&begun.id, update.clone()).await.unwrap();
    assert_eq!((ended.state, ended.error.clone()), (OperationState::Failed, Some(json!({"detail": "no"}))));
    assert!(ended.finished_at.is_some_and(|end| end >= ended.created_at));
    assert_eq!(store.operation(&begun.id).await.unwrap(), ended);
    assert!(store.running_operations().await.unwrap().is_empty());
    let error = store.update_operation(&begun.id, update.clone()).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Conflict);
    let error = store.update_operation("nothing", update).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::NotFound);
    assert_eq!(store.operation("nothing").await.unwrap_err().class(), ErrorClass::NotFound);
}

pub(crate) async fn are_bounded(place: Place) {
    let store = place.open().await;
    let running = store.create_operation(new()).await.unwrap();
    for batch in 0..3 {
        let log = (0..OPERATION_LINES_KEPT / 2).map(|line| format!("{batch}.{line}")).collect();
        let update = OperationUpdate { log, ..OperationUpdate::default() };
        store.update_operation(&running.id, update).await.unwrap();
    }
    let log = store.operation(&running.id).await.unwrap().log;
    assert_eq!((log.len() as u64, log[0].as_str()), (OPERATION_LINES_KEPT, "1.0"));
    assert_eq!(log.last().unwrap(), &format!("2.{}", OPERATION_LINES_KEPT / 2 - 1));
    let mut finished = Vec::new();
    for _ in 0..FINISHED_OPERATIONS_KEPT + 3 {
        let operation = store.create_operation(new()).await.unwrap();
        let update = OperationUpdate { state: Some(OperationState::Succeeded), ..OperationUpdate::default() };
        store.update_operation(&operation.id, update).await.unwrap();
        finished.push(operation.id);
    }
    store.create_operation(new()).await.unwrap();
    assert!(store.operation(&finished[2]).await.is_err());
    assert!(store.operation(&finished[3]).await.is_ok());
    // However old, what has not ended stays.
    assert!(store.operation(&running.id).await.is_ok());
}

pub(crate) async fn remember_their_phases(place: Place) {
    let store = place.open().await;
    let begun = store.create_operation(new()).await.unwrap();
    let phase = |name: String| OperationUpdate { phase: Some(name), ..OperationUpdate::default() };
    for name in ["resolve", "start", "start", "ready"] {
        store.update_operation(&begun.id, phase(name.to_owned())).await.unwrap();
    }
    let phases = store.operation(&begun.id).await.unwrap().phases;
    let names: Vec<&str> = phases.iter().map(|phase| phase.name.as_str()).collect();
    assert_eq!(names, ["resolve", "start", "ready"]);
    assert!(phases.is_sorted_by_key(|phase| phase.at) && phases[0].at >= begun.created_at);
    for number in 0..OPERATION_PHASES_KEPT {
        store.update_operation(&begun.id, phase(format!("step {number}"))).await.unwrap();
    }
    let found = store.operation(&begun.id).await.unwrap();
    assert_eq!(found.phases.len() as u64, OPERATION_PHASES_KEPT);
    assert_eq!(found.phase, Some(format!("step {}", OPERATION_PHASES_KEPT - 1)));
}

pub(crate) async fn are_listed_newest_first(place: Place) {
    let store = place.open().await;
    let mut made = Vec::new();
    for subject in ["iris/blue", "iris/green", "Iris/Blue", "iris"] {
        let new = NewOperation { subject: subject.to_owned(), ..new() };
        made.push(store.create_operation(new).await.unwrap().id);
    }
    made.reverse();
    let list = async |subject: Option<&str>, before: Option<&str>, limit| {
        let part = OperationPart {
            subject: subject.map(ToOwned::to_owned),
            before: before.map(ToOwned::to_owned),
            limit,
        };
        let found = store.operations(&default(), &part).await.unwrap();
        found.into_iter().map(|operation| operation.id).collect::<Vec<_>>()
    };
    assert_eq!(list(None, None, 10).await, made);
    assert_eq!(list(None, None, 2).await, made[..2]);
    assert_eq!(list(None, Some(&made[1]), 10).await, made[2..]);
    assert_eq!(list(Some("IRIS/blue"), None, 10).await, [made[1].clone(), made[3].clone()]);
    assert!(list(Some("nothing"), None, 10).await.is_empty());
    assert!(list(None, Some("nothing"), 10).await.is_empty());
    let part = OperationPart { subject: None, before: None, limit: 1 };
    assert!(store.operations(&"none".parse().unwrap(), &part).await.is_err());
}
