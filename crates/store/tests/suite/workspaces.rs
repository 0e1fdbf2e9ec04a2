//! Workspaces: created once, found in any case, gone with their contents only when told.

use bytes::Bytes;
use moorline_core::{ErrorClass, Secret};
use moorline_store::{
    AssetKind, DEFAULT_WORKSPACE, NewOperation, NewToken, NewWorkspace, Page, RecordKind, Role, StoreError,
};
use serde_json::json;

use crate::place::{Place, default, model, name, workspace};

pub(crate) async fn come_and_go(place: Place) {
    let store = place.open().await;
    assert_eq!(store.workspaces().await.unwrap()[0].name.as_str(), DEFAULT_WORKSPACE);
    let new = NewWorkspace { name: name("Team_A"), body: json!({"z": 1, "a": [null, "é\u{0}"]}) };
    let made = store.create_workspace(new.clone()).await.unwrap();
    assert_eq!((made.name.as_str(), &made.body), ("Team_A", &new.body));
    assert_eq!(made.created_at, made.modified_at);
    let again = NewWorkspace { name: name("team_a"), ..new };
    let error = store.create_workspace(again).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Conflict);
    assert_eq!(store.workspace(&name("TEAM_A")).await.unwrap(), made);
    // By bytes, whatever the database's own order is.
    for other in ["team.a", "team-a", "teaM0"] {
        workspace(&store, other).await;
    }
    let names: Vec<String> =
        store.workspaces().await.unwrap().into_iter().map(|found| found.name.into()).collect();
    assert_eq!(names, ["default", "team-a", "team.a", "teaM0", "Team_A"]);
    let updated = store.update_workspace(&name("team_a"), json!({"a": 2})).await.unwrap();
    assert_eq!((updated.created_at, &updated.body), (made.created_at, &json!({"a": 2})));
    let error = store.update_workspace(&name("nobody"), json!({})).await.unwrap_err();
    assert_eq!(error.to_string(), "workspace `nobody` does not exist");
    store.delete_workspace(&name("team_A"), false).await.unwrap();
    assert_eq!(store.workspace(&name("Team_A")).await.unwrap_err().class(), ErrorClass::NotFound);
    let error = store.delete_workspace(&name("Team_A"), true).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::NotFound);
    store.close().await;
    assert_eq!(place.open().await.workspaces().await.unwrap().len(), 4);
}

pub(crate) async fn go_with_their_contents_only_when_told(place: Place) {
    let store = place.open().await;
    let full = workspace(&store, "full").await;
    let mut asset = model(&store, "iris", None, "content").await;
    asset.workspace = full.clone();
    store.register(asset.clone()).await.unwrap();
    store.create_record(&full, RecordKind::Endpoint, "e", json!({})).await.unwrap();
    store.create_record(&full, RecordKind::Deployment, "e/blue", json!({})).await.unwrap();
    store.set_secret(&full, "key", Secret::new("value".to_owned())).await.unwrap();
    let operation = NewOperation { workspace: full.clone(), kind: "k".to_owned(), subject: "s".to_owned() };
    let operation = store.create_operation(operation).await.unwrap();
    let new = NewToken {
        workspace: Some(full.clone()),
        name: String::new(),
        role: Role::Owner,
        endpoint: None,
        expires_at: None,
    };
    let (_, token) = store.create_token(new).await.unwrap();
    let error = store.delete_workspace(&full, false).await.unwrap_err();
    assert!(matches!(error, StoreError::NotEmpty { .. }), "{error:?}");
    assert_eq!(
        error.to_string(),
        "workspace `full` still holds models, environments or code, computes, endpoints or deployments, secrets"
    );
    store.register(model(&store, "iris", None, "content").await).await.unwrap();
    store.delete_workspace(&full, true).await.unwrap();
    assert!(store.operation(&operation.id).await.is_err());
    assert_eq!(store.verify_token(token.expose()).await.unwrap(), None);
    assert_eq!(store.assets(&default(), AssetKind::Model, &Page::default()).await.unwrap().len(), 1);
    // Nothing is left to come back with the name.
    let full = workspace(&store, "full").await;
    assert!(store.assets(&full, AssetKind::Model, &Page::default()).await.unwrap().is_empty());
    assert!(store.records(RecordKind::Endpoint, None).await.unwrap().is_empty());
    assert_eq!(store.secret(&full, "key").await.unwrap(), None);
    store.blobs().put(Bytes::from_static(b"still works")).await.unwrap();
}
