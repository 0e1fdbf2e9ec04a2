//! Both versions of TLS, clients that prove themselves by a certificate, and a hub whose certificate is renewed.

use std::{sync::Arc, time::Duration};

use moorline_core::Digest;
use moorline_edge::{
    authority::{self, Authority, Issued},
    hub::{Identity, Proof},
};
use rumqttc::mqttbytes::v4::ConnectReturnCode;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};

use crate::place::{TestHub, Wire, id};

const DAY: Duration = Duration::from_hours(24);

fn thumbprint(issued: &Issued) -> Digest {
    Digest::of(&CertificateDer::from_pem_slice(issued.certificates.as_bytes()).unwrap())
}

async fn code(place: &TestHub, name: &str, certificate: Option<&Issued>) -> ConnectReturnCode {
    let mut wire = Wire::dial(place.hub.mqtt_address(), &place.pki.client_config(certificate)).await;
    wire.login(&id(name), |connect| connect.login.as_mut().unwrap().password.clear()).await.code
}

/// A certificate is valid to the end of its last second.
async fn refused_at_last(place: &TestHub, name: &str, expired: &Issued) {
    let mut often = tokio::time::interval(Duration::from_millis(50));
    crate::place::soon(async {
        while code(place, name, Some(expired)).await != ConnectReturnCode::NotAuthorized {
            often.tick().await;
        }
    })
    .await;
}

#[tokio::test]
async fn certificates_prove_the_name_that_they_are_for() {
    let place = TestHub::start(|_| {}).await;
    for name in ["x1", "x1/m1"] {
        place.identities.set(id(name), Identity { proof: Proof::Authority, enabled: true });
    }
    let device = place.pki.authority.issue_client(&id("x1"), DAY).unwrap();
    let module = place.pki.authority.issue_client(&id("x1/m1"), DAY).unwrap();
    let (stranger, _) = Authority::create("stranger", DAY).unwrap();
    let forged = stranger.issue_client(&id("x1"), DAY).unwrap();
    let expired = place.pki.authority.issue_client(&id("x1"), Duration::ZERO).unwrap();
    let server = place.pki.authority.issue_server(&["x1"], DAY).unwrap();
    assert_eq!(code(&place, "x1", Some(&device)).await, ConnectReturnCode::Success);
    assert_eq!(code(&place, "x1/m1", Some(&module)).await, ConnectReturnCode::Success);
    for (name, certificate) in [
        ("x1", Some(&module)),
        ("x1/m1", Some(&device)),
        ("x1", Some(&forged)),
        // Not made for clients.
        ("x1", Some(&server)),
        ("x1", None),
        // Proves itself by a key.
        ("dev1", Some(&device)),
    ] {
        assert_eq!(code(&place, name, certificate).await, ConnectReturnCode::NotAuthorized, "{name}");
    }

    refused_at_last(&place, "x1", &expired).await;

    // By thumbprint: whoever issued it, as long as it is valid.
    let old = stranger.issue_client(&id("anything"), Duration::ZERO).unwrap();
    let proof = Proof::Thumbprint { primary: thumbprint(&old), secondary: Some(thumbprint(&forged)) };
    place.identities.set(id("x2"), Identity { proof, enabled: true });
    assert_eq!(code(&place, "x2", Some(&forged)).await, ConnectReturnCode::Success);
    refused_at_last(&place, "x2", &old).await;
    assert_eq!(code(&place, "x2", Some(&device)).await, ConnectReturnCode::NotAuthorized);

    // What was asked for with a signing request.
    let key = rcgen::KeyPair::generate().unwrap();
    let asked = authority::request(&id("x1"), &key).unwrap();
    let certificates = place.pki.authority.sign(&id("x1"), &asked, DAY).unwrap();
    let signed = Issued { certificates, key: key.serialize_pem(), expires: std::time::SystemTime::now() };
    assert_eq!(code(&place, "x1", Some(&signed)).await, ConnectReturnCode::Success);
    place.hub.shutdown().await;
}

#[tokio::test]
async fn both_versions_of_tls_are_spoken_and_a_renewed_certificate_is_used() {
    let place = TestHub::start(|_| {}).await;
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(place.pki.authority.certificate().as_bytes()).unwrap()).unwrap();
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots.clone())
            .with_no_client_auth();
        let mut wire = Wire::dial(place.hub.mqtt_address(), &config).await;
        assert_eq!(wire.version(), Some(version.version));
        assert_eq!(wire.login(&id("dev1"), |_| {}).await.code, ConnectReturnCode::Success);
    }
    let mut old = place.connect("dev1").await;
    let before = old.certificate();
    // Half of a renewal leaves the old one in place.
    fs_err::write(place.pki.folder.join("hub.key"), "torn").unwrap();
    assert!(place.hub.reload_certificates().is_err());
    assert_eq!(place.connect("dev2").await.certificate(), before);
    place.pki.renew(&["localhost"]);
    place.hub.reload_certificates().unwrap();
    assert_ne!(place.connect("dev2").await.certificate(), before);
    assert!(old.deliver("devices/dev1/messages/events/", "still connected").await);
    // And by itself, once the files have changed.
    let second = place.connect("dev2").await.certificate();
    place.pki.renew(&["localhost"]);
    let mut often = tokio::time::interval(Duration::from_millis(100));
    crate::place::soon(async {
        while place.connect("dev2").await.certificate() == second {
            often.tick().await;
        }
    })
    .await;
    place.hub.shutdown().await;
}
