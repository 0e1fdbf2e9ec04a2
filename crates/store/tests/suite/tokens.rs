//! Tokens: whoever has the text has the role, until it expires or is revoked.

use jiff::{SignedDuration, Timestamp};
use moorline_core::ErrorClass;
use moorline_store::{NewToken, Role};

use crate::place::{Place, name, workspace};

fn new(role: Role) -> NewToken {
    NewToken { workspace: None, name: "laptop".to_owned(), role, endpoint: None, expires_at: None }
}

pub(crate) async fn are_verified(place: Place) {
    let store = place.open().await;
    let (token, text) = store.create_token(new(Role::Scorer)).await.unwrap();
    let text = text.expose();
    assert!(text.starts_with(&format!("mrl_{}_", token.id)));
    // 256 bits.
    assert_eq!(text.rsplit('_').next().unwrap().len(), 64);
    assert_eq!(store.verify_token(text).await.unwrap(), Some(token.clone()));
    let mut other = text.to_owned();
    other.replace_range(text.len() - 1.., if text.ends_with('0') { "1" } else { "0" });
    let (_, another) = store.create_token(new(Role::Owner)).await.unwrap();
    let mixed = format!("mrl_{}_{}", token.id, another.expose().rsplit('_').next().unwrap());
    let short = text[..text.len() - 1].to_owned();
    for wrong in
        [&other, &mixed, &short, "", "mrl_", "mrl__", "mrl_x_y", &text.to_uppercase(), &"_".repeat(9999)]
    {
        assert_eq!(store.verify_token(wrong).await.unwrap(), None, "{wrong}");
    }
    let soon = Timestamp::now() + SignedDuration::from_hours(1);
    let kept = NewToken { expires_at: Some(soon), endpoint: Some(name("iris")), ..new(Role::Reader) };
    let (kept, kept_text) = store.create_token(kept).await.unwrap();
    assert_eq!((kept.role, kept.endpoint.clone()), (Role::Reader, Some(name("iris"))));
    assert_eq!(store.verify_token(kept_text.expose()).await.unwrap(), Some(kept.clone()));
    let gone = NewToken { expires_at: Some(Timestamp::now()), ..new(Role::Owner) };
    let (_, gone) = store.create_token(gone).await.unwrap();
    assert_eq!(store.verify_token(gone.expose()).await.unwrap(), None);
    assert_eq!(store.tokens().await.unwrap().len(), 4);
    store.revoke_token(&token.id).await.unwrap();
    assert_eq!(store.verify_token(text).await.unwrap(), None);
    assert_eq!(store.revoke_token(&token.id).await.unwrap_err().class(), ErrorClass::NotFound);
    let long = NewToken { name: "x".repeat(300), ..new(Role::Owner) };
    assert_eq!(store.create_token(long).await.unwrap_err().class(), ErrorClass::TooLarge);
    for role in [Role::Owner, Role::Contributor, Role::Reader, Role::Scorer] {
        assert_eq!(role.as_str().parse::<Role>().unwrap(), role);
    }
    assert!("admin".parse::<Role>().is_err());
}

pub(crate) async fn go_with_their_workspace(place: Place) {
    let store = place.open().await;
    let team = workspace(&store, "Team").await;
    let (token, text) =
        store.create_token(NewToken { workspace: Some(name("team")), ..new(Role::Owner) }).await.unwrap();
    assert_eq!(token.workspace, Some(team.clone()));
    store.delete_workspace(&team, false).await.unwrap();
    // A token for one workspace must never become one for all of them.
    assert_eq!(store.verify_token(text.expose()).await.unwrap(), None);
    workspace(&store, "Team").await;
    assert_eq!(store.verify_token(text.expose()).await.unwrap(), None);
    let nowhere = NewToken { workspace: Some(name("nowhere")), ..new(Role::Owner) };
    assert_eq!(store.create_token(nowhere).await.unwrap_err().class(), ErrorClass::NotFound);
}
