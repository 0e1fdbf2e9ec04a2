//! Whatever is valid, written as JSON and read again, is the same.

use std::{collections::BTreeMap, path::Path};

use moorline_core::{ModelType, Name, Probe, RequestSettings};
use moorline_spec::{
    AssetRef, AuthMode, CodeConfiguration, CodeSource, Collection, CollectionData, DataAsset, DataCollector,
    DeploymentType, Document, Environment, LocalPath, Model, OnlineDeployment, OnlineEndpoint, OsType,
    Reference, RequestLogging, ResourceRequirements, ResourceSettings, RollingRate, ScaleSettings, Tags,
    from_json,
};
use proptest::{collection::btree_map, option, prelude::*};

use crate::sample::{folder, load_in};

fn host_name() -> impl Strategy<Value = Name> {
    "[a-z][a-z0-9-]{1,20}[a-z0-9]".prop_map(|text| text.parse().unwrap())
}

fn name() -> impl Strategy<Value = Name> {
    "[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,30}".prop_map(|text| text.parse().unwrap())
}

/// Texts that YAML would read as something else, and any others.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "\\PC{0,30}",
        Just("on".to_owned()),
        Just("0777".to_owned()),
        Just("1e3".to_owned()),
        Just("~".to_owned()),
        Just("a: b # c".to_owned()),
        Just("line\nbreak\t\"quoted\"".to_owned()),
    ]
}

fn tags() -> impl Strategy<Value = Tags> {
    btree_map(text().prop_filter("a key says something", |key| !key.is_empty()), text(), 0..4)
}

fn variables() -> impl Strategy<Value = BTreeMap<String, String>> {
    btree_map("[A-Z_]{1,8}", text(), 0..4)
}

fn reference() -> impl Strategy<Value = Reference> {
    let version = prop_oneof![
        "[0-9]{1,3}".prop_map(|version| format!(":{version}")),
        Just("@latest".to_owned()),
        Just(String::new())
    ];
    (name(), version).prop_map(|(name, version)| format!("azureml:{name}{version}").parse().unwrap())
}

fn model(folder: &Path) -> impl Strategy<Value = Model> + use<> {
    let path = LocalPath { text: "model".to_owned(), base: folder.to_owned() };
    let types =
        prop_oneof![Just(ModelType::CustomModel), Just(ModelType::MlflowModel), Just(ModelType::TritonModel)];
    (name(), option::of(name()), types, option::of(text()), tags(), tags()).prop_map(
        move |(name, version, model_type, description, tags, properties)| Model {
            name: Some(name),
            version: version.map(String::from),
            model_type,
            path: Some(path.clone()),
            description,
            tags,
            properties,
            stage: None,
            flavors: serde_json::Map::new(),
            files: Vec::new(),
        },
    )
}

fn environment() -> impl Strategy<Value = Environment> {
    let os = option::of(Just(OsType::Linux));
    let conda = option::of(Just(crate::sample::CONDA.to_owned()));
    (name(), option::of(text()), tags(), "[a-z/.:]{1,20}", conda, os).prop_map(
        |(name, description, tags, image, conda_file, os_type)| Environment {
            name: Some(name),
            version: None,
            description,
            tags,
            image: Some(image),
            conda_file,
            build: None,
            inference_config: None,
            os_type,
        },
    )
}

fn endpoint() -> impl Strategy<Value = OnlineEndpoint> {
    let auth = prop_oneof![Just(AuthMode::Key), Just(AuthMode::AmlToken), Just(AuthMode::AadToken)];
    let shares = btree_map(host_name(), 0u8..=25, 0..4);
    let mirror = btree_map(host_name(), 0u8..=50, 0..=1);
    (host_name(), option::of(text()), tags(), tags(), auth, shares, mirror, option::of(name())).prop_map(
        |(name, description, tags, properties, auth_mode, traffic, mirror_traffic, compute)| OnlineEndpoint {
            name,
            description,
            tags,
            properties,
            auth_mode,
            traffic,
            mirror_traffic,
            compute,
        },
    )
}

fn scale() -> impl Strategy<Value = ScaleSettings> {
    prop_oneof![
        Just(ScaleSettings::Default),
        (1u32..10, 1u32..=100, 0u32..5, 5u32..10).prop_map(|(interval, percentage, min, max)| {
            ScaleSettings::TargetUtilization {
                polling_interval: interval,
                target_utilization_percentage: percentage,
                min_instances: min,
                max_instances: max,
            }
        })
    ]
}

fn collector() -> impl Strategy<Value = DataCollector> {
    let data = prop_oneof![
        Just(CollectionData::Reference("azureml:d:1".to_owned())),
        Just(CollectionData::Asset(DataAsset { name: Some("n".to_owned()), ..DataAsset::default() })),
    ];
    let collection = (any::<bool>(), option::of(data)).prop_map(|(enabled, data)| Collection {
        enabled,
        data,
        client_id: None,
    });
    let logging = option::of(Just(RequestLogging { capture_headers: vec!["x".to_owned()] }));
    (btree_map("[a-z]{1,5}", collection, 0..3), option::of(Just(RollingRate::Hour)), logging).prop_map(
        |(collections, rolling_rate, request_logging)| DataCollector {
            collections,
            rolling_rate,
            sampling_rate: Some(0.5),
            request_logging,
        },
    )
}

fn deployment(folder: &Path) -> impl Strategy<Value = OnlineDeployment> + use<> {
    let model = option::of(prop_oneof![
        reference().prop_map(AssetRef::Reference),
        model(folder).prop_map(|model| AssetRef::Inline(Box::new(model))),
    ]);
    let environment = option::of(prop_oneof![
        reference().prop_map(AssetRef::Reference),
        environment().prop_map(|environment| AssetRef::Inline(Box::new(environment))),
    ]);
    let folder = LocalPath { text: "./code".to_owned(), base: folder.to_owned() };
    let code = option::of(Just(CodeConfiguration {
        code: CodeSource::Local(folder),
        scoring_script: "score.py".to_owned(),
    }));
    let resources = option::of(Just(ResourceRequirements {
        requests: Some(ResourceSettings { cpu: Some("500m".to_owned()), ..ResourceSettings::default() }),
        limits: None,
    }));
    let first = (host_name(), host_name(), option::of(text()), tags(), variables());
    let second = (model, environment, code, resources, option::of(scale()), option::of(collector()));
    let third = (0u32..5, option::of(1u64..100_000), option::of(1u32..100));
    (first, second, third).prop_map(|(first, second, third)| {
        let (name, endpoint_name, description, tags, environment_variables) = first;
        let (model, environment, code_configuration, resources, scale_settings, data_collector) = second;
        let (instance_count, timeout, period) = third;
        OnlineDeployment {
            name,
            endpoint_name,
            kind: match resources {
                Some(_) => DeploymentType::Kubernetes,
                None => DeploymentType::Managed,
            },
            description,
            tags,
            properties: Tags::from([("moorline.threads".to_owned(), "2".to_owned())]),
            model,
            model_mount_path: None,
            code_configuration,
            environment,
            environment_variables,
            instance_count,
            instance_type: Some("Standard_DS3_v2".to_owned()),
            scale_settings,
            request_settings: timeout
                .map(|ms| RequestSettings { request_timeout_ms: Some(ms), ..RequestSettings::default() }),
            liveness_probe: period.map(|period| Probe { period, ..Probe::default() }),
            readiness_probe: None,
            resources,
            data_collector,
        }
    })
}

/// JSON is YAML: what `show -o json` prints can be given to `create -f`.
fn round_trips<T: Document + PartialEq + std::fmt::Debug>(folder: &Path, document: &T) {
    let json = serde_json::to_string_pretty(document).unwrap();
    let loaded = load_in::<T>(folder, &json, &[]).map_err(|refusal| refusal.to_string());
    assert_eq!(loaded.map(|loaded| loaded.document).as_ref(), Ok(document), "{json}");
}

#[test]
fn documents_round_trip_through_files() {
    let folder = folder();
    let path = folder.path();
    proptest!(|(document in endpoint())| round_trips(path, &document));
    proptest!(|(document in environment())| round_trips(path, &document));
    proptest!(|(document in model(path))| round_trips(path, &document));
    proptest!(|(document in deployment(path))| round_trips(path, &document));
}

#[test]
fn documents_round_trip_through_requests() {
    proptest!(|(document in endpoint())| {
        let read = from_json::<OnlineEndpoint>(&serde_json::to_value(&document).unwrap()).unwrap();
        assert_eq!(read.document, document);
    });
    proptest!(|(document in environment())| {
        let read = from_json::<Environment>(&serde_json::to_value(&document).unwrap()).unwrap();
        assert_eq!(read.document, document);
    });
}
