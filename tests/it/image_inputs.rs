//! JPEG and PNG files as requests: what a deployment declares is done to them, as Pillow does it.

use moorline_tests::{
    Workspace,
    documents::{endpoint, onnx_deployment},
    onnx::{ModelWriter, OnnxType, element},
    run_client, venv,
};

/// A model that gives back what it takes.
fn identity(kind: u64, sides: [Option<u64>; 4]) -> Vec<u8> {
    let image = OnnxType::Tensor(kind, sides.to_vec());
    ModelWriter::default()
        .input("image", &image)
        .output("same", &image)
        .node("Identity", &["image"], &["same"])
        .write()
}

fn deploy(workspace: &Workspace, name: &str, model: Vec<u8>, properties: &str) -> moorline_tests::Said {
    let file = format!("{name}.onnx");
    workspace.write(&file, model);
    workspace.write("endpoint.yml", endpoint(name));
    workspace.write("blue.yml", onnx_deployment("blue", name, &file) + properties);
    workspace.moorline(&["online-endpoint", "create", "-f", "endpoint.yml"]).ok();
    workspace.moorline(&["online-deployment", "create", "-f", "blue.yml", "--all-traffic"])
}

#[test]
fn images_become_what_pillow_makes_of_them() {
    let Some(tools) = venv("tools") else { return };
    let workspace = Workspace::up();
    let floats = |sides: [u64; 4]| identity(element::FLOAT, sides.map(Some));
    let imagenet = "properties:\n  moorline.image.resize: '256'\n  moorline.image.crop: 224x224\n  \
        moorline.image.mean: 0.485, 0.456, 0.406\n  moorline.image.std: 0.229, 0.224, 0.225\n";
    deploy(&workspace, "imagenet", floats([1, 3, 224, 224]), imagenet).ok();
    // Bytes, the other layout, the other order of colours, and the size of the model.
    let bytes = identity(element::UINT8, [None, Some(30), Some(40), Some(3)]);
    deploy(&workspace, "plain", bytes, "properties: {moorline.image.color: bgr}\n").ok();
    let gray = identity(element::FLOAT, [None, Some(1), None, None]);
    let properties = "properties: {moorline.image.color: gray, moorline.image.resize: 28x28}\n";
    deploy(&workspace, "gray", gray, properties).ok();
    deploy(&workspace, "tensors", floats([1, 3, 8, 8]), "").ok();
    let names = ["imagenet", "plain", "gray", "tensors"];
    let keys = names.map(|name| format!("{name}={}", workspace.key(name)));
    let address = workspace.address().to_string();
    let arguments: Vec<&str> =
        std::iter::once(address.as_str()).chain(keys.iter().map(String::as_str)).collect();
    let said = run_client(&tools, "image_inputs.py", &arguments);
    assert!(said.contains("images become"), "{said}");
    // Clients are told.
    let swagger = workspace.call(
        &moorline_tests::Request::get("/endpoints/imagenet/swagger.json")
            .header("authorization", &format!("Bearer {}", workspace.key("imagenet"))),
    );
    assert!(swagger.text().contains("image/jpeg"), "{}", swagger.text());
}

#[test]
fn a_declaration_that_does_not_fit_the_model_fails_the_deployment() {
    let workspace = Workspace::up();
    let model = || identity(element::FLOAT, [Some(1), Some(3), Some(8), Some(8)]);
    for (name, properties, words) in [
        ("other-size", "{moorline.image.crop: 9x8, moorline.image.resize: '9'}", "9 x 8"),
        ("other-input", "{moorline.image.input: picture}", "no input `picture`"),
        ("other-colors", "{moorline.image.color: gray}", "1 channels"),
        ("too-many", "{moorline.image.mean: '1, 2'}", "2 values for 3 channels"),
    ] {
        let said = deploy(&workspace, name, model(), &format!("properties: {properties}\n"));
        assert_ne!(said.code, Some(0), "{said:?}");
        assert!(said.stderr.contains(words), "`{words}` is not in: {}", said.stderr);
    }
    // What is no value at all is found where it is written.
    let said = deploy(&workspace, "typo", model(), "properties:\n  moorline.image.crop: large\n");
    assert_ne!(said.code, Some(0), "{said:?}");
    assert!(said.stderr.contains("blue.yml:") && said.stderr.contains("224x224"), "{}", said.stderr);
}
