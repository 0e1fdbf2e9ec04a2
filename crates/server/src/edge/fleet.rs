//! The server's fleet: which devices have an agent, who may enrol, and what computes of `type: edge` mean.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;
use moorline_core::{Digest, ErrorClass, Name, Secret, TargetError};
use moorline_deploy::local::OnChange;
use moorline_edge::{
    desired::{DesiredRoute, Messaging},
    enrol::{self, EnrolConfig, Enrolments, EnrolmentsError, Facts},
    fleet::{Files, Fleet, FleetConfig, FleetSettings, FleetTarget, Member, Members, MembersError, Share},
    hub::{ConditionError, Hub, Route},
    manifest::RestartPolicy,
    supply,
};
use moorline_spec::{Compute, EdgeDevices};
use moorline_store::{Record, RecordKind, Store, StoreError};
use uuid::Uuid;

use super::{
    EdgeHub,
    record::{Authentication, DeviceBody, Enrolment, ModuleBody},
};
use crate::{opened, problem::chain};

/// How long a device's certificate is good; it asks for the next one after two thirds of that.
const DEVICE_CERTIFICATE: Duration = Duration::from_hours(90 * 24);
/// How long a token is good.
const TOKEN_LIFETIME: Duration = Duration::from_hours(24);

/// Begins to look after the devices of a hub.
pub(super) fn start(
    hub: &Hub,
    store: Store,
    signer: moorline_edge::desired::Signer,
    files: Files,
    on_change: OnChange,
) -> Fleet {
    let members: Arc<dyn Members> = Arc::new(StoreMembers(store));
    Fleet::start(FleetConfig { hub: hub.clone(), signer, members, files, on_change })
}

/// Answers devices over the hub's HTTPS: enrolment, and the files of releases.
pub(super) fn serve(edge: &EdgeHub, store: Store) {
    let (hub, fleet) = (edge.hub(), edge.fleet());
    let Some(https) = hub.https_address() else { return };
    let facts = Facts {
        hub: edge.name().to_owned(),
        hub_host: edge.name().to_owned(),
        hub_port: hub.mqtt_address().port(),
        trust: edge.trusted().to_owned(),
        releases: format!("https://{}:{}{}", edge.name(), https.port(), supply::PATH),
        keys: vec![fleet.public_key()],
    };
    let config = EnrolConfig {
        enrolments: Arc::new(StoreEnrolments { store, fleet: fleet.clone() }),
        authority: Arc::clone(edge.authority()),
        facts,
        lifetime: DEVICE_CERTIFICATE,
    };
    hub.serve_also(enrol::router(config).merge(supply::router(hub.clone(), fleet.clone())));
}

/// The devices of the store that have an agent.
#[derive(Debug)]
struct StoreMembers(Store);

#[async_trait]
impl Members for StoreMembers {
    async fn members(&self) -> Result<Vec<Member>, MembersError> {
        let records = self.0.records(RecordKind::Device, None).await;
        let records = records.map_err(|error| MembersError(error.into()))?;
        let enrolled = |record: Record| {
            let body: DeviceBody = serde_json::from_value(record.body).ok()?;
            let member = Member { workspace: record.workspace, device: record.name };
            body.modules.contains_key(enrol::AGENT).then_some(member)
        };
        Ok(records.into_iter().filter_map(enrolled).collect())
    }

    async fn secret(&self, workspace: &Name, name: &str) -> Result<Option<Secret>, MembersError> {
        let found = self.0.secret(workspace, name).await;
        Ok(found.map_err(|error| MembersError(error.into()))?.map(|(_, secret)| secret))
    }
}

#[derive(Debug)]
struct StoreEnrolments {
    store: Store,
    fleet: Fleet,
}

#[async_trait]
impl Enrolments for StoreEnrolments {
    async fn redeem(&self, device: &str, token: &str) -> Result<bool, EnrolmentsError> {
        let failed = |error: StoreError| EnrolmentsError(error.into());
        let Some(record) = self.device(device).await? else { return Ok(false) };
        let mut body: DeviceBody =
            serde_json::from_value(record.body).map_err(|error| EnrolmentsError(error.into()))?;
        let Some(enrolment) = body.enrolment.take() else { return Ok(false) };
        // Digests: how long it takes to tell them apart tells nothing of the token.
        let same = Digest::of(token.as_bytes()) == enrolment.token;
        if !same || enrolment.expires < Timestamp::now() || body.disabled {
            return Ok(false);
        }
        let agent = ModuleBody { authentication: Authentication::CertificateAuthority };
        body.modules.insert(enrol::AGENT.to_owned(), agent);
        let body = serde_json::to_value(body).map_err(|error| EnrolmentsError(error.into()))?;
        let (workspace, name) = (&record.workspace, &record.name);
        let updated = self
            .store
            .update_record(workspace, RecordKind::Device, name, Some(record.generation), body)
            .await;
        match updated {
            Ok(_) => {
                tracing::info!(device, "a device enrolled");
                self.fleet.look();
                Ok(true)
            }
            // Somebody else was first.
            Err(error) if error.class() == ErrorClass::Conflict => Ok(false),
            Err(error) => Err(failed(error)),
        }
    }

    async fn may_renew(&self, device: &str) -> Result<bool, EnrolmentsError> {
        let Some(record) = self.device(device).await? else { return Ok(false) };
        let body: DeviceBody =
            serde_json::from_value(record.body).map_err(|error| EnrolmentsError(error.into()))?;
        let agent = body.modules.get(enrol::AGENT);
        let by_certificate =
            agent.is_some_and(|agent| agent.authentication == Authentication::CertificateAuthority);
        Ok(by_certificate && !body.disabled)
    }
}

impl StoreEnrolments {
    async fn device(&self, name: &str) -> Result<Option<Record>, EnrolmentsError> {
        let record = self.store.find_device(name).await.map_err(|error| EnrolmentsError(error.into()))?;
        Ok(record.filter(|record| record.name == name))
    }
}

/// A token by which a device enrols, once, and what is kept of it.
pub(crate) fn new_token() -> (Secret, Enrolment) {
    let token = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
    let expires = Timestamp::now().checked_add(TOKEN_LIFETIME).unwrap_or(Timestamp::MAX);
    let enrolment = Enrolment { token: Digest::of(token.as_bytes()), expires };
    (Secret::new(token), enrolment)
}

/// What a compute says, read.
pub(crate) fn settings(compute: &Compute) -> Result<FleetSettings, TargetError> {
    let said: EdgeDevices = compute.edge();
    let wrong = |key: &str, error: &(dyn std::error::Error + 'static)| {
        let message = format!("`{key}` of compute `{}` cannot be read: {}", compute.name, chain(error));
        TargetError::new(ErrorClass::InvalidInput, message)
    };
    let mut stages = Vec::new();
    for stage in &said.stages {
        stages.push(stage.parse::<Share>().map_err(|error| wrong("stages", &error))?);
    }
    let mut device_routes = BTreeMap::new();
    for (name, route) in said.routes {
        route.parse::<Route>().map_err(|error| wrong(&format!("routes.{name}"), &error))?;
        device_routes.insert(name, DesiredRoute { route, time_to_live_secs: None });
    }
    let policy = said.restart_policy.as_deref().unwrap_or("always");
    let policy = RestartPolicy::ALL.iter().find(|(word, _)| *word == policy);
    Ok(FleetSettings {
        condition: said.condition.parse().map_err(|error: ConditionError| wrong("condition", &error))?,
        condition_text: said.condition,
        priority: said.priority.unwrap_or(0),
        module: said.module,
        restart_policy: policy.map_or(RestartPolicy::Always, |(_, policy)| *policy),
        stages,
        max_failure_rate: said.max_failure_rate.unwrap_or(0.0),
        paused: said.paused,
        messaging: said.messaging.map(|own| Messaging { input: own.input, output: own.output }),
        routes: device_routes,
    })
}

/// The target of a compute, as it is now.
pub(crate) async fn target(
    store: &Store,
    fleet: Option<&Fleet>,
    workspace: &Name,
    compute: &Name,
) -> Result<Arc<FleetTarget>, TargetError> {
    let Some(fleet) = fleet else {
        return Err(TargetError::new(
            ErrorClass::Unavailable,
            "this server has no hub, so no device can be reached: start it with `moorline up --hub ADDRESS --hub-https ADDRESS --hub-name HOST`",
        ));
    };
    let found = opened::compute(store, workspace, compute).await?;
    Ok(Arc::new(fleet.target(settings(&found)?)))
}
