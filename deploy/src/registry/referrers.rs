//! What refers to an image: signatures, SBOMs, provenance. A registry lists it, or a tag made of the digest does where the
//! registry is older than that.
//!
//! Source: the OCI distribution specification 1.1, "Listing Referrers" and "Referrers Tag Schema".

use http::{Method, StatusCode, header};
use moorline_core::Digest;
use oci_spec::image::{Descriptor, ImageIndex, ImageIndexBuilder, MediaType};
use reqwest::{Response, Url};

use super::{
    RegistryError, exchange,
    manifest::{Document, MOST_MANIFESTS, Served},
    push::put,
    remote::{Remote, Request},
};
use crate::image::LONGEST_DOCUMENT;

const MOST_PAGES: usize = 16;
/// Several may add to one list at a time, which no registry orders.
const MOST_ROUNDS: usize = 5;

/// The referrers of a digest, of one kind or of all.
pub(super) async fn list(
    from: &Remote,
    subject: &Digest,
    artifact_type: Option<&str>,
) -> Result<Vec<Descriptor>, RegistryError> {
    let mut found = match by_registry(from, subject, artifact_type).await? {
        Some(found) => found,
        None => by_tag(from, subject).await?,
    };
    // A registry need not heed what it was asked for.
    if let Some(wanted) = artifact_type {
        let is_wanted = |kind: &MediaType| kind.as_ref() == wanted;
        found.retain(|descriptor| descriptor.artifact_type().as_ref().is_some_and(is_wanted));
    }
    Ok(found)
}

/// `None`: the registry does not list referrers.
async fn by_registry(
    from: &Remote,
    subject: &Digest,
    artifact_type: Option<&str>,
) -> Result<Option<Vec<Descriptor>>, RegistryError> {
    let action = format!("list the referrers of {subject}");
    let mut url = from.url(&format!("referrers/{subject}"));
    if let Some(wanted) = artifact_type {
        url.query_pairs_mut().append_pair("artifactType", wanted);
    }
    let mut found = Vec::new();
    for page in 0..MOST_PAGES {
        let request = Request::new(Method::GET, url.clone(), &action)
            .header(header::ACCEPT, MediaType::ImageIndex.as_ref());
        let response = from.send(request).await?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST | StatusCode::METHOD_NOT_ALLOWED if page == 0 => {
                return Ok(None);
            }
            _ => return Err(from.refused(&action, response).await),
        }
        let next = next_page(&url, &response);
        let body = exchange::body(&from.endpoint, &action, response, LONGEST_DOCUMENT as usize).await?;
        let index: ImageIndex = serde_json::from_slice(&body)
            .map_err(|error| from.wrong(&action, format!("what it sent is no index ({error})")))?;
        found.extend(index.manifests().iter().cloned());
        match next.filter(|next| from.endpoint.may_lead_to(next)) {
            Some(next) if found.len() <= MOST_MANIFESTS => url = next,
            _ => return Ok(Some(found)),
        }
    }
    Ok(Some(found))
}

/// The address in `Link: <…>; rel="next"`.
fn next_page(from: &Url, response: &Response) -> Option<Url> {
    let link = response.headers().get(header::LINK)?.to_str().ok()?;
    let (address, parameters) = link.strip_prefix('<')?.split_once('>')?;
    parameters.replace('"', "").contains("rel=next").then(|| from.join(address).ok())?
}

async fn by_tag(from: &Remote, subject: &Digest) -> Result<Vec<Descriptor>, RegistryError> {
    match from.manifest(&tag_of(subject)).await {
        Ok(Served { document: Document::Index(index), .. }) => Ok(index.manifests().clone()),
        Ok(_) | Err(RegistryError::NotFound { .. }) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Adds a manifest to the list that stands under the tag of its subject.
pub(super) async fn list_by_tag(to: &Remote, subject: &Digest, added: &Served) -> Result<(), RegistryError> {
    let descriptor = describe(added);
    for _ in 0..MOST_ROUNDS {
        let mut listed = by_tag(to, subject).await?;
        if listed.iter().any(|known| known.digest() == descriptor.digest()) {
            return Ok(());
        }
        listed.push(descriptor.clone());
        let index = ImageIndexBuilder::default()
            .schema_version(2_u32)
            .media_type(MediaType::ImageIndex)
            .manifests(listed)
            .build()
            .expect("an index has all that it needs");
        let bytes = serde_json::to_vec(&index).expect("an index has only string keys");
        let name = format!("{}/{}", to.endpoint.name, to.repository());
        put(to, &tag_of(subject), &Served::read(bytes, None, &name)?).await?;
        // Another one may have written its own list in between: look again.
    }
    Err(to
        .wrong("list a referrer", format!("the list of {subject} was changed {MOST_ROUNDS} times meanwhile")))
}

fn tag_of(subject: &Digest) -> String {
    format!("sha256-{}", subject.hex())
}

/// The descriptor of a referrer says what kind of thing it is.
fn describe(served: &Served) -> Descriptor {
    let mut descriptor = served.descriptor();
    let (kind, annotations) = match &served.document {
        Document::Manifest(manifest) => {
            let kind =
                manifest.artifact_type().clone().unwrap_or_else(|| manifest.config().media_type().clone());
            (Some(kind), manifest.annotations())
        }
        Document::Index(index) => (index.artifact_type().clone(), index.annotations()),
    };
    descriptor.set_artifact_type(kind);
    descriptor.set_annotations(annotations.clone());
    descriptor
}
