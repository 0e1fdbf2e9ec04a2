//! The words of every refusal, as a person reads them.

use moorline_spec::{Compute, Environment, Model, OnlineDeployment, OnlineEndpoint, Workspace};

use crate::sample::{folder, load_in, said, said_with};

#[test]
fn unknown_keys_name_the_nearest_known_one() {
    insta::assert_snapshot!(said::<OnlineDeployment>("
name: blue
endpoint_name: diabetes
instance_cout: 1
instanceType: Standard_DS3_v2
colour: green
request_timeout_ms: 1000
traffic: {blue: 100}
resources: {limits: {cpu: '1'}}
request_settings: {request_timeout: 3}
liveness_probe: {perod: 3}
"), @r"
    doc.yml:4:1: unknown key `instance_cout` in online deployment; did you mean `instance_count`?
    doc.yml:5:1: unknown key `instanceType` in online deployment; did you mean `instance_type`?
    doc.yml:6:1: unknown key `colour` in online deployment
    doc.yml:7:1: unknown key `request_timeout_ms` in online deployment; it belongs inside of `request_settings`
    doc.yml:8:1: unknown key `traffic` in online deployment; it belongs to the endpoint
    doc.yml:9:1: unknown key `resources` in online deployment; it belongs to deployments of `type: kubernetes`; here `instance_type` says the size
    doc.yml:10:20: unknown key `request_timeout` in request settings; did you mean `request_timeout_ms`?
    doc.yml:11:18: unknown key `perod` in probe; did you mean `period`?
    ");
    insta::assert_snapshot!(said::<OnlineEndpoint>("nam: diabetes\nauth_mode: key\ninstance_type: x\n"), @r"
    doc.yml:1:1: unknown key `nam` in online endpoint; did you mean `name`?
    doc.yml:3:1: unknown key `instance_type` in online endpoint; it belongs to a deployment
    ");
    insta::assert_snapshot!(said::<Model>("name: m\npath: model\nflavours: {}\n"), @"doc.yml:3:1: unknown key `flavours` in model; did you mean `flavors`?");
    insta::assert_snapshot!(said::<Compute>("name: c\ntype: local\nnamespace: x\n"), @"doc.yml:3:1: unknown key `namespace` in compute");
    insta::assert_snapshot!(said::<Workspace>("name: w\ndisplayName: W\n"), @"doc.yml:2:1: unknown key `displayName` in workspace; did you mean `display_name`?");
}

#[test]
fn missing_keys_are_named() {
    insta::assert_snapshot!(said::<OnlineDeployment>("description: x\n"), @r"
    doc.yml:1:1: online deployment has no `name`
    doc.yml:1:1: online deployment has no `endpoint_name`
    ");
    insta::assert_snapshot!(said::<OnlineEndpoint>("description: x\n"), @"doc.yml:1:1: online endpoint has no `name`");
    insta::assert_snapshot!(said::<Model>("description: x\n"), @r"
    doc.yml:1:1: model has no `name`
    doc.yml:1:1: model has no `path`
    ");
    insta::assert_snapshot!(said::<Environment>("description: x\n"), @r"
    doc.yml:1:1: environment has no `name`
    doc.yml:1:1: environment has neither `image` nor `build`; expected an `image`, with or without a `conda_file`, or a `build` context
    ");
    insta::assert_snapshot!(said::<Compute>("description: x\n"), @r"
    doc.yml:1:1: compute has no `name`
    doc.yml:1:1: compute has no `type`
    ");
    insta::assert_snapshot!(said::<Workspace>("description: x\n"), @"doc.yml:1:1: workspace has no `name`");
    insta::assert_snapshot!(said::<OnlineDeployment>("
name: blue
endpoint_name: diabetes
code_configuration: {scoring_script: score.py}
scale_settings: {min_instances: 1}
environment:
  image: i
  inference_config: {liveness_route: {port: 1}}
"), @r"
    doc.yml:4:21: code configuration has no `code`
    doc.yml:5:17: scale settings has no `type`
    doc.yml:8:21: inference config has no `readiness_route`
    doc.yml:8:21: inference config has no `scoring_route`
    doc.yml:8:38: route has no `path`
    ");
}

#[test]
fn wrong_types_say_what_was_expected() {
    insta::assert_snapshot!(said::<OnlineDeployment>("
name: 12
endpoint_name:
description: [a]
tags: text
properties: {a: [1], b: null}
instance_count: two
instance_type: 3
model: 1
environment: [a]
app_insights_enabled: perhaps
environment_variables: {A: {b: c}}
request_settings: {request_timeout_ms: 1.5, max_concurrent_requests_per_instance: 0, max_queue_wait_ms: -1}
liveness_probe: {period: 0, timeout: 1e3}
readiness_probe: 10
scale_settings: default
data_collector: {sampling_rate: 2, collections: {a: {enabled: maybe}}, request_logging: {capture_headers: x}}
"), @r#"
    doc.yml:2:7: `name` is the number 12; expected text; put it in quotes: "12"
    doc.yml:3:14: `endpoint_name` is empty; expected text; give it a value, or leave the key out
    doc.yml:4:14: `description` is a list; expected text
    doc.yml:5:7: `tags` is the text `text`; expected an object
    doc.yml:6:17: `a` is a list; expected text, a number or a boolean
    doc.yml:6:25: `b` is empty; expected text, a number or a boolean; give it a value, or leave the key out
    doc.yml:7:17: `instance_count` is the text `two`; expected an integer
    doc.yml:8:16: `instance_type` is the number 3; expected text; put it in quotes: "3"
    doc.yml:9:8: `model` is the number 1; expected a reference to a registered model, or an object that describes one
    doc.yml:10:14: `environment` is a list; expected a reference to a registered environment, or an object that describes one
    doc.yml:11:23: `app_insights_enabled` is the text `perhaps`; expected `true` or `false`
    doc.yml:12:28: `A` is an object; expected text, a number or a boolean
    doc.yml:13:40: `request_timeout_ms` is the number 1.5; expected an integer
    doc.yml:13:83: `max_concurrent_requests_per_instance` is the number 0; expected an integer of at least 1
    doc.yml:13:105: `max_queue_wait_ms` is the number -1; expected an integer of at least 0
    doc.yml:14:26: `period` is the number 0; expected an integer from 1 to 86400
    doc.yml:14:38: `timeout` is the text `1e3`; expected an integer
    doc.yml:15:18: `readiness_probe` is the number 10; expected an object with keys
    doc.yml:16:17: `scale_settings` is the text `default`; expected an object with keys
    doc.yml:17:33: `sampling_rate` is the number 2; expected a number from 0 to 1
    doc.yml:17:63: `enabled` is the text `maybe`; expected `true` or `false`
    doc.yml:17:107: `capture_headers` is the text `x`; expected a list
    "#);
    insta::assert_snapshot!(said::<OnlineEndpoint>("
name: diabetes
traffic: {blue: 60%, green: -1, -x: 3}
mirror_traffic: {blue: 60}
auth_mode: keys
public_network_access: 'on'
compute: my-compute
"), @r"
    doc.yml:3:17: `blue` is the text `60%`; expected an integer
    doc.yml:3:29: `green` is the number -1; expected an integer from 0 to 100
    doc.yml:3:33: `-x` is the text `-x`; expected a name: 1 to 32 letters, digits and `-`, beginning with a letter and not ending with `-`
    doc.yml:4:24: `blue` is the number 60; expected an integer from 0 to 50
    doc.yml:5:12: `auth_mode` is the text `keys`; expected `key`, `aml_token` or `aad_token`; did you mean `key`?
    doc.yml:6:24: `public_network_access` is the text `on`; expected `enabled` or `disabled`
    doc.yml:7:10: `compute` is the text `my-compute`; expected a compute, `azureml:NAME`
    ");
    insta::assert_snapshot!(said::<Model>("- name: m\n"), @"doc.yml:1:1: a list stands where a model is expected; expected an object with keys");
    insta::assert_snapshot!(said::<Model>("just text\n"), @"doc.yml:1:1: the text `just text` stands where a model is expected; expected an object with keys");
}

#[test]
fn names_follow_the_rules() {
    for name in ["ab", "1ab", "a_b", "ab-", "../x", "a/b", "naïve", "\"a\\nb\""] {
        let said = said::<OnlineEndpoint>(&format!("name: {name}\n"));
        assert!(said.contains("3 to 32 letters, digits and `-`"), "{name}: {said}");
    }
    let long = "n".repeat(300);
    insta::assert_snapshot!(said::<OnlineEndpoint>(&format!("name: {long}\n")), @"doc.yml:1:7: `name` is the text `nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn…`; expected a name: 3 to 32 letters, digits and `-`, beginning with a letter and not ending with `-`");
    insta::assert_snapshot!(said::<OnlineDeployment>("name: v.1\nendpoint_name: x\n"), @r"
    doc.yml:1:7: `name` is the text `v.1`; expected a name: 1 to 32 letters, digits and `-`, beginning with a letter and not ending with `-`
    doc.yml:2:16: `endpoint_name` is the text `x`; expected a name: 3 to 32 letters, digits and `-`, beginning with a letter and not ending with `-`
    ");
    insta::assert_snapshot!(said::<Model>("name: ../m\nversion: 1/2\npath: model\n"), @r"
    doc.yml:1:7: `name` is the text `../m`; expected a name: 1 to 255 letters, digits, `-`, `_` and `.`, beginning with a letter, a digit or `_`
    doc.yml:2:10: `version` is the text `1/2`; expected a version: letters, digits, `-`, `_` and `.`, 255 at most
    ");
    insta::assert_snapshot!(said::<Workspace>("name: .hidden\n"), @"doc.yml:1:7: `name` is the text `.hidden`; expected a name: 1 to 255 letters, digits, `-`, `_` and `.`, beginning with a letter, a digit or `_`");
}

#[test]
fn rules_between_keys() {
    insta::assert_snapshot!(said::<OnlineEndpoint>("
name: diabetes
traffic: {blue: 60, green: 50}
mirror_traffic: {blue: 10, green: 10}
"), @r"
    doc.yml:3:10: `traffic` sums to 110 %; expected 100 % or less
    doc.yml:4:17: `mirror_traffic` names 2 deployments; expected one
    ");
    insta::assert_snapshot!(said::<Environment>("name: e\nimage: i\nbuild: {path: context}\n"), @"doc.yml:3:1: `image` and `build` exclude one another; a Dockerfile names its base image itself");
    insta::assert_snapshot!(said::<Environment>("name: e\nconda_file: conda.yml\n"), @"doc.yml:2:1: `conda_file` needs an `image` to install into; any will do where scorers run as processes; Azure ML needs one");
    insta::assert_snapshot!(said::<Environment>("name: e\nbuild: {path: context}\nconda_file: conda.yml\n"), @"doc.yml:3:1: `conda_file` and `build` exclude one another; install from the conda file in the Dockerfile");
    insta::assert_snapshot!(said::<Environment>("name: e\nchannels: [a]\ndependencies: [b]\n"), @"doc.yml:3:1: `dependencies` belongs to a conda file, not to an environment; put the conda file under `conda_file:`, as an object or by its path");
    insta::assert_snapshot!(said::<OnlineDeployment>("
name: blue
endpoint_name: diabetes
scale_settings: {type: TargetUtilization, min_instances: 5, max_instances: 2}
"), @"doc.yml:4:43: `min_instances` (5) exceeds `max_instances` (2)");
    insta::assert_snapshot!(said::<OnlineDeployment>("
name: blue
endpoint_name: diabetes
scale_settings: {type: default, min_instances: 5}
properties: {moorline.engine: onnx, moorline.thread: 1, moorline.max_batch_delay_us: 5, moorline.sessions: 0}
"), @r"
    doc.yml:4:33: unknown key `min_instances` in scale settings; it needs `type: target_utilization`
    doc.yml:5:31: `moorline.engine` is the text `onnx`; expected `ort` or `tract`
    doc.yml:5:37: unknown property `moorline.thread`; did you mean `moorline.threads`?
    doc.yml:5:57: `moorline.max_batch_delay_us` needs `moorline.max_batch_size`
    doc.yml:5:108: `moorline.sessions` is the number 0; expected an integer of at least 1
    ");
    insta::assert_snapshot!(said::<OnlineDeployment>("
name: blue
endpoint_name: diabetes
type: kubernetes
private_network_connection: true
resources: {requests: {cpu: a lot, memory: 1Xi, nvidia.com/gpu: half}}
"), @r"
    doc.yml:5:1: unknown key `private_network_connection` in online deployment; it belongs to deployments of `type: managed`
    doc.yml:6:29: `cpu` is the text `a lot`; expected cores, such as `2`, `0.5` or `500m`
    doc.yml:6:44: `memory` is the text `1Xi`; expected memory, such as `512Mi` or `4Gi`
    doc.yml:6:65: `nvidia.com/gpu` is the text `half`; expected a number of devices
    ");
    insta::assert_snapshot!(said::<Model>("name: m\npath: model\ntype: onnx\n"), @"doc.yml:3:7: `type` is `onnx`, which is found by looking at the files; leave `type` out");
    insta::assert_snapshot!(said::<Model>("name: m\npath: model\ntype: mlflow\n"), @"doc.yml:3:7: `type` is the text `mlflow`; expected `custom_model`, `mlflow_model` or `triton_model`");
    insta::assert_snapshot!(said::<Compute>("name: c\ntype: amlcompute\nsize: big\n"), @"doc.yml:2:7: `type` is `amlcompute`, which only Azure can make; expected a place of your own, such as `local`");
    insta::assert_snapshot!(said::<Compute>("name: c\ntype: kubernetis\n"), @"doc.yml:2:7: `type` is the text `kubernetis`; expected `local`, `container`, `kubernetes`, `fpga` or `edge`; did you mean `kubernetes`?");
}

#[test]
fn references_and_paths() {
    insta::assert_snapshot!(said::<OnlineDeployment>("
name: blue
endpoint_name: diabetes
model: m:1
environment: azureml://registries/azureml/models/m/versions/1
code_configuration: {code: https://example.com/code, scoring_script: ../score.py}
"), @r"
    doc.yml:4:8: `m:1` is not a reference: it does not begin with `azureml:`; did you mean `azureml:m:1`?
    doc.yml:5:14: `azureml://registries/azureml/models/m/versions/1` points at `models`; expected one of `environments`
    doc.yml:6:28: `code` is `https://example.com/code`; expected a path on this machine; fetch it, and give the path here
    doc.yml:6:70: `scoring_script` is the text `../score.py`; expected a relative path with `/` between its parts, and neither `.` nor `..` among them
    ");
    insta::assert_snapshot!(said::<OnlineDeployment>("
name: blue
endpoint_name: diabetes
model: {path: absent}
environment: file:absent.yml
code_configuration: {code: code, scoring_script: main.py}
"), @r"
    doc.yml:4:15: `absent` does not exist; relative paths start from the folder of the document
    doc.yml:5:14: `absent.yml` does not exist
    doc.yml:6:50: `code` holds no `main.py`
    ");
    insta::assert_snapshot!(said::<OnlineDeployment>("
name: blue
endpoint_name: diabetes
model: {path: azureml://datastores/d/paths/p}
environment: {build: {path: model}}
code_configuration: {code: model/model.onnx, scoring_script: score.py}
"), @r"
    doc.yml:4:15: `path` is `azureml://datastores/d/paths/p`; expected a path on this machine; fetch it, and give the path here
    doc.yml:5:22: `model` holds no `Dockerfile`
    doc.yml:6:28: `model/model.onnx` is not a folder
    ");
    insta::assert_snapshot!(said::<Environment>("name: e\nimage: i\nconda_file: /does/not/exist.yml\n"), @"doc.yml:3:13: `/does/not/exist.yml` does not exist");
    insta::assert_snapshot!(said::<Environment>("name: e\nimage: i\nconda_file: model\n"), @"doc.yml:3:13: `model` is a folder; a file is needed here");
}

#[test]
fn what_is_not_yaml_is_refused_with_its_place() {
    insta::assert_snapshot!(said::<OnlineEndpoint>("name: diabetes\n\ttags: {}\n"), @"doc.yml:2:1: a tab where only spaces can be; indent with spaces");
    insta::assert_snapshot!(said::<OnlineEndpoint>("name: diabetes\ntags:\n\ta: b\n"), @"doc.yml:3:1: a tab where only spaces can be; indent with spaces");
    insta::assert_snapshot!(said::<OnlineEndpoint>("name: diabetes\ntags: {a: b\n"), @"doc.yml:3:1: this is not YAML: while parsing a flow mapping, did not find expected ',' or '}'");
    insta::assert_snapshot!(said::<OnlineEndpoint>("name: 'diabetes\n"), @"doc.yml:1:7: this is not YAML: while scanning a quoted scalar, found unexpected end of stream");
    insta::assert_snapshot!(said::<OnlineEndpoint>("name: @diabetes\n"), @"doc.yml:1:7: this is not YAML: unexpected character: `@'; put the value in quotes");
    insta::assert_snapshot!(said::<OnlineEndpoint>("name: a: b\n"), @"doc.yml:1:8: this is not YAML: mapping values are not allowed in this context");
    insta::assert_snapshot!(said::<OnlineEndpoint>("name: *diabetes\n"), @"doc.yml:1:7: this is not YAML: while parsing node, found unknown anchor");
    insta::assert_snapshot!(said::<OnlineEndpoint>("name: !env diabetes\n"), @"doc.yml:1:7: the tag `!env` means nothing here");
    insta::assert_snapshot!(said::<OnlineEndpoint>("name: abc\n---\nname: xyz\n"), @"doc.yml:2:1: a second document begins here; a file holds one document; put this one into a file of its own");
    insta::assert_snapshot!(said::<OnlineEndpoint>("name: abc\ntags: {a: b}\nname: xyz\n"), @"doc.yml:3:1: key `name` is here twice; the first is at 1:1");
    insta::assert_snapshot!(said::<OnlineEndpoint>("? [a, b]\n: c\n"), @"doc.yml:1:3: a key that is not text");
    insta::assert_snapshot!(said::<OnlineEndpoint>(""), @"doc.yml:1:1: this online endpoint is empty");
    insta::assert_snapshot!(said::<OnlineEndpoint>("# nothing\n"), @"doc.yml:1:1: this online endpoint is empty");
}

#[test]
fn overrides_are_shown_as_they_were_written() {
    let text = "name: blue\nendpoint_name: diabetes\nmodel: azureml:m:1\n";
    insta::assert_snapshot!(
        said_with::<OnlineDeployment>(text, &["instance_count=two", "instance_cout=2", "model.path=x"]), @r"
    doc.yml:1:1: `--set model.path=x` looks for `path` in a value that is neither object nor list
    --set instance_count=two: `instance_count` is `two`; expected an integer
    --set instance_cout=2: unknown key `instance_cout` in online deployment; did you mean `instance_count`?
    ");
}

#[test]
fn the_long_form_shows_the_line() {
    let folder = folder();
    let text = "name: blue\nendpoint_name: diabetes\nrequest_settings:\n  request_timeout: 3\n";
    let refusal = load_in::<OnlineDeployment>(folder.path(), text, &[]).unwrap_err();
    let long = format!("{refusal:#}").replace(&format!("{}/", folder.path().display()), "");
    insta::assert_snapshot!(long, @r"
    doc.yml:4:3: unknown key `request_timeout` in request settings; did you mean `request_timeout_ms`?
       |
     4 |   request_timeout: 3
       |   ^
    ");
}
