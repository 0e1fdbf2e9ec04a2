//! What Azure ML knows and we cannot do anything with: accepted, and said.

use moorline_core::{ModelType, Probe, Scale};
use moorline_spec::{
    AssetRef, Compute, Environment, Model, OnlineDeployment, OnlineEndpoint, Reference, VersionRef, Workspace,
};

use crate::sample::{folder, load_in, said};

#[test]
fn keys_of_azure_are_accepted_with_a_warning() {
    insta::assert_snapshot!(said::<OnlineEndpoint>("
$schema: https://azuremlschemas.azureedge.net/latest/managedOnlineEndpoint.schema.json
name: diabetes
location: westeurope
identity: {type: system_assigned}
public_network_access: Enabled
provisioning_state: Succeeded
scoring_uri: https://x
kind: Managed
"), @r"
    doc.yml:4:1: warning: `location` has no effect here: an endpoint is where its server is
    doc.yml:5:1: warning: `identity` has no effect here: there are no managed identities
    doc.yml:6:1: warning: `public_network_access` has no effect here: the address that the server listens on decides
    ");
    insta::assert_snapshot!(said::<OnlineDeployment>("
name: blue
endpoint_name: diabetes
app_insights_enabled: true
egress_public_network_access: disabled
private_network_connection: true
data_collector: {collections: {model_inputs: {enabled: 'True', data: azureml:d:1}}, rolling_rate: Hour}
environment: {image: i, os_type: Windows, datastore: d}
model: {path: model, datastore: d}
"), @r"
    doc.yml:4:1: warning: `app_insights_enabled` has no effect here: metrics, logs and traces are there without it
    doc.yml:5:1: warning: `egress_public_network_access` has no effect here: a deployment reaches what its machine reaches
    doc.yml:6:1: warning: `private_network_connection` has no effect here: a deployment reaches what its machine reaches
    doc.yml:7:46: warning: `data` has no effect here: what is collected goes to the workspace's own store
    doc.yml:8:34: warning: `os_type` is `windows`; scorers run on Linux
    doc.yml:8:43: warning: `datastore` has no effect here: files go to the workspace's own store
    doc.yml:9:22: warning: `datastore` has no effect here: files go to the workspace's own store
    ");
    insta::assert_snapshot!(said::<Workspace>("
name: w
location: westeurope
resource_group: rg
hbi_workspace: false
storage_account: /subscriptions/x
managed_network: {isolation_mode: disabled}
"), @r"
    doc.yml:3:1: warning: `location` has no effect here: a workspace is where its server is
    doc.yml:4:1: warning: `resource_group` has no effect here: resource groups are Azure's
    doc.yml:5:1: warning: `hbi_workspace` has no effect here: nothing is sent to Microsoft
    doc.yml:6:1: warning: `storage_account` has no effect here: files go to the workspace's own store
    doc.yml:7:1: warning: `managed_network` has no effect here: there is no managed network
    ");
    insta::assert_snapshot!(said::<Compute>("
name: k
type: Kubernetes
namespace: ml
resource_id: /subscriptions/x
identity: {type: system_assigned}
"), @r"
    doc.yml:5:1: warning: `resource_id` has no effect here: it names a thing in Azure
    doc.yml:6:1: warning: `identity` has no effect here: there are no managed identities
    ");
}

#[test]
fn numbers_that_become_other_texts_are_pointed_out() {
    insta::assert_snapshot!(said::<OnlineDeployment>("
name: blue
endpoint_name: diabetes
environment_variables: {A: 0777, B: 1_000, C: 12:30, D: on, E: true, F: 5, G: 1.50, H: 2024-01-01}
"), @r#"
    doc.yml:4:28: warning: `A` is the number 0777 and becomes the text `511`; put it in quotes to keep it: "0777"
    doc.yml:4:37: warning: `B` is the number 1_000 and becomes the text `1000`; put it in quotes to keep it: "1_000"
    doc.yml:4:47: warning: `C` is the number 12:30 and becomes the text `750`; put it in quotes to keep it: "12:30"
    doc.yml:4:57: warning: `D` is the boolean on and becomes the text `true`; put it in quotes to keep it: "on"
    doc.yml:4:79: warning: `G` is the number 1.50 and becomes the text `1.5`; put it in quotes to keep it: "1.50"
    "#);
    insta::assert_snapshot!(said::<Model>("name: m\nversion: 1.10\npath: model\n"), @r#"doc.yml:2:10: warning: `version` is the number 1.10 and becomes the text `1.1`; put it in quotes to keep it: "1.10""#);
}

#[test]
fn a_whole_deployment_of_azure_ml_is_read() {
    let folder = folder();
    fs_err::create_dir(folder.path().join("env")).unwrap();
    fs_err::write(folder.path().join("env/env.yml"), "image: i\nconda_file: ../conda.yml\n").unwrap();
    let text = "
$schema: https://azuremlschemas.azureedge.net/latest/managedOnlineDeployment.schema.json
name: blue
endpoint_name: my-endpoint
description: first
tags: {team: a, cost: 5}
properties: {moorline.engine: tract, moorline.threads: 4, moorline.max_batch_size: '8', other: x}
type: Managed
model: &model
  path: model/
  type: Mlflow_Model
code_configuration:
  code: ./code
  scoring_script: ./score.py
environment: file:env/env.yml
environment_variables: {LEVEL: 5, DEBUG: true, RATE: 0.5}
instance_count: '2'
instance_type: Standard_DS3_v2
request_settings: {request_timeout_ms: 3000, max_concurrent_requests_per_instance: 2}
liveness_probe: {initial_delay: 5}
scale_settings: {type: target_utilization, min_instances: 0, max_instances: 3}
";
    let loaded =
        load_in::<OnlineDeployment>(folder.path(), text, &["instance_count=3", "tags.team=7"]).unwrap();
    assert_eq!(loaded.warnings, []);
    let deployment = loaded.document;
    assert_eq!(deployment.instance_count, 3);
    assert_eq!(deployment.tags["team"], "7");
    assert_eq!(deployment.tags["cost"], "5");
    let Some(AssetRef::Inline(model)) = &deployment.model else { panic!("{:?}", deployment.model) };
    assert_eq!(model.model_type, ModelType::MlflowModel);
    assert_eq!(model.path.as_ref().unwrap().resolve(), folder.path().join("model/"));
    let Some(AssetRef::Inline(environment)) = &deployment.environment else { panic!() };
    assert_eq!(environment.conda_file.as_deref(), Some(crate::sample::CONDA));
    assert_eq!(deployment.code_configuration.as_ref().unwrap().scoring_script, "score.py");
    assert_eq!(deployment.environment_variables["DEBUG"], "true");
    assert_eq!(deployment.environment_variables["RATE"], "0.5");
    assert_eq!(deployment.liveness_probe, Some(Probe { initial_delay: 5, ..Probe::default() }));
    let runtime = deployment.runtime();
    assert_eq!(runtime.engine.threads.unwrap().get(), 4);
    assert_eq!(runtime.batching.unwrap().max_size.get(), 8);
    assert!(matches!(
        deployment.scale(),
        Scale::TargetUtilization { min_instances: 0, max_instances: 3, .. }
    ));
    assert_eq!(serde_json::to_value(&deployment).unwrap()["code_configuration"]["code"], "./code");
}

#[test]
fn references_of_all_forms_are_read() {
    let version = |text: &str| -> VersionRef {
        let text = format!("name: blue\nendpoint_name: my-endpoint\nmodel: {text}\n");
        let loaded = load_in::<OnlineDeployment>(folder().path(), &text, &[]).unwrap();
        match loaded.document.model {
            Some(AssetRef::Reference(Reference { version, .. })) => version,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(version("azureml:m:3"), VersionRef::Version("3".to_owned()));
    assert_eq!(version("azureml:m@latest"), VersionRef::Label("latest".to_owned()));
    assert_eq!(version("azureml:m"), VersionRef::Default);
    assert_eq!(version("azureml://registries/r/models/m/versions/3"), VersionRef::Version("3".to_owned()));
}

#[test]
fn a_document_can_be_made_of_flags_alone() {
    let changes = ["name=diabetes", "auth_mode=key", "description=5", "tags.a=b"];
    let endpoint = load_in::<OnlineEndpoint>(folder().path(), "", &changes).unwrap().document;
    assert_eq!(endpoint.description.as_deref(), Some("5"));
    let environment =
        load_in::<Environment>(folder().path(), "", &["name=e", "image=i", "conda_file=conda.yml"]);
    assert_eq!(environment.unwrap().document.conda_file.as_deref(), Some(crate::sample::CONDA));
}
