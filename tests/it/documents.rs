//! Documents, read by our crate and by Azure ML's own SDK: both accept and refuse the same, but for differences that are
//! listed here with their reasons.
//!
//! The corpus is made of valid documents, and of each of them with one thing changed at one place: every key misspelled,
//! left out, and given values of other types; an unknown key in every object.

mod corpus;
mod differences;

use std::fmt::Write as _;

use corpus::{Case, Kind};
use moorline_spec::{
    Compute, Document, Environment, Model, OnlineDeployment, OnlineEndpoint, SourceFile, Workspace, load,
};
use moorline_tests::{run_client, venv};
use serde_json::{Value, json};

#[test]
fn azure_mls_own_loader_accepts_and_refuses_the_same() {
    let Some(venv) = venv("azure-ml") else { return };
    let folder = tempfile::tempdir().unwrap();
    corpus::write_files(folder.path());
    let cases = corpus::cases();
    let mut manifest = Vec::new();
    for (index, case) in cases.iter().enumerate() {
        let path = folder.path().join(format!("{index}.yml"));
        fs_err::write(&path, &case.text).unwrap();
        manifest.push(json!({"kind": case.kind.name(), "path": path}));
    }
    let list = folder.path().join("cases.json");
    fs_err::write(&list, serde_json::to_vec(&manifest).unwrap()).unwrap();
    let printed = run_client(&venv, "azure_ml_documents.py", &[list.to_str().unwrap()]);
    let theirs: Vec<Option<String>> = serde_json::from_str(printed.lines().last().unwrap()).unwrap();
    assert_eq!(theirs.len(), cases.len());
    assert!(cases.len() > 800, "only {} cases", cases.len());

    let mut unexplained = String::new();
    let mut used = vec![false; differences::LIST.len()];
    for ((index, case), theirs) in cases.iter().enumerate().zip(theirs) {
        let name = folder.path().join(format!("{index}.yml"));
        let ours = refusal(case, SourceFile::new(name, case.text.as_str()));
        if ours.is_some() == theirs.is_some() {
            continue;
        }
        if let Some(difference) = differences::find(case, ours.is_some()) {
            used[difference] = true;
            continue;
        }
        let show = |refusal: Option<String>| refusal.unwrap_or_else(|| "accepted".to_owned());
        writeln!(unexplained, "{}\n  we:   {}\n  they: {}", case.label(), show(ours), show(theirs)).unwrap();
    }
    assert!(unexplained.is_empty(), "differences that nobody explained:\n{unexplained}");
    let unused: Vec<&str> = differences::LIST
        .iter()
        .zip(used)
        .filter(|(_, used)| !used)
        .map(|(difference, _)| difference.why)
        .collect();
    assert!(unused.is_empty(), "differences that are none any more: {unused:#?}");
}

fn refusal(case: &Case, file: SourceFile) -> Option<String> {
    fn of<T: Document>(file: &SourceFile) -> Option<String> {
        load::<T>(file, &[]).err().map(|refusal| refusal.to_string())
    }
    match case.kind {
        Kind::Model => of::<Model>(&file),
        Kind::Environment => of::<Environment>(&file),
        Kind::Compute => of::<Compute>(&file),
        Kind::Workspace => of::<Workspace>(&file),
        Kind::Endpoint => of::<OnlineEndpoint>(&file),
        Kind::Deployment => of::<OnlineDeployment>(&file),
    }
}

/// A value that nothing was changed in is there to be accepted by both.
#[test]
fn the_valid_documents_are_accepted() {
    let folder = tempfile::tempdir().unwrap();
    corpus::write_files(folder.path());
    for case in corpus::cases().iter().filter(|case| case.change.is_empty()) {
        let file = SourceFile::new(folder.path().join("doc.yml"), case.text.as_str());
        assert_eq!(refusal(case, file), None, "{}", case.label());
        assert!(serde_json::from_str::<Value>(&case.text).is_ok());
    }
}
