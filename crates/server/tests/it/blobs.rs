//! Uploads: in parts, resumed, verified; and what is refused.

use moorline_core::Digest;
use reqwest::Method;

use crate::place::{Answer, Place, send};

async fn part(place: &Place, digest: &Digest, size: usize, offset: usize, content: &[u8]) -> Answer {
    let request = place
        .request(Method::PATCH, &format!("blobs/{digest}?size={size}"))
        .header("upload-offset", offset)
        .body(content.to_vec());
    send(request).await
}

async fn look(place: &Place, digest: &Digest) -> Answer {
    send(place.request(Method::HEAD, &format!("blobs/{digest}"))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_is_resumed_where_it_was() {
    let mut place = Place::new().await;
    let content = b"the first half, the second half";
    let (digest, size) = (Digest::of(content), content.len());
    let absent = look(&place, &digest).await;
    assert_eq!((absent.status.as_u16(), absent.header("upload-offset")), (404, "0"));
    let first = part(&place, &digest, size, 0, &content[..16]).await;
    assert_eq!((first.status.as_u16(), first.header("upload-offset")), (204, "16"));

    // A server that ends in between makes no difference.
    place.restart().await;
    assert_eq!(look(&place, &digest).await.header("upload-offset"), "16");
    let wrong = part(&place, &digest, size, 3, &content[3..]).await;
    assert_eq!(wrong.header("upload-offset"), "16");
    wrong.problem(409, "conflict");
    let last = part(&place, &digest, size, 16, &content[16..]).await;
    assert_eq!((last.status.as_u16(), last.header("upload-offset")), (201, size.to_string().as_str()));

    let there = look(&place, &digest).await;
    assert_eq!((there.status.as_u16(), there.header("content-length")), (200, size.to_string().as_str()));
    let read = place.get(&format!("blobs/{digest}")).await;
    assert_eq!(read.text.as_bytes(), content);
    // Nothing is left to be done by whoever uploads the same once more.
    part(&place, &digest, size, size, b"").await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn content_that_is_not_what_was_announced_is_refused() {
    let place = Place::new().await;
    let digest = Digest::of(b"right");
    part(&place, &digest, 5, 0, b"wrong").await.problem(400, "invalid_input");
    part(&place, &digest, 4, 0, b"right").await.problem(400, "invalid_input");
    assert_eq!(look(&place, &digest).await.header("upload-offset"), "0");
    part(&place, &digest, 5, 0, b"right").await.expect(201);
    let empty = Digest::of(b"");
    part(&place, &empty, 0, 0, b"").await.expect(201);

    let path = format!("blobs/{digest}?size=5");
    send(place.request(Method::PATCH, &path).body("right")).await.problem(400, "invalid_input");
    let odd = place.request(Method::PATCH, &path).header("upload-offset", "-1").body("right");
    send(odd).await.problem(400, "invalid_input");
    let no_size =
        place.request(Method::PATCH, &format!("blobs/{digest}")).header("upload-offset", 0).body("right");
    send(no_size).await.problem(400, "invalid_input");
    place.get("blobs/sha256:abc").await.problem(400, "invalid_input");
    place.get("blobs/..%2F..%2Fworkspace.db").await.problem(400, "invalid_input");
    place.get(&format!("blobs/{}", Digest::of(b"never"))).await.problem(404, "not_found");
}
