//! Operations: from start to end, within their bounds.

use moorline_core::ErrorClass;
use moorline_store::{
    FINISHED_OPERATIONS_KEPT, NewOperation, OPERATION_LINES_KEPT, OperationState, OperationUpdate,
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
