//! A shell script written for `az ml` runs here with nothing changed but the name of the command.

use std::process::Command;

use moorline_tests::{Workspace, own_folder};

#[test]
fn a_script_for_az_runs_with_moorline() {
    let workspace = Workspace::up();
    workspace.copy_scenario("az");
    let script = fs_err::read_to_string(own_folder().join("scenarios/az/walk-through.sh")).unwrap();
    workspace.write("walk-through.sh", script.replace("az ml ", "moorline ml "));
    let mut command = Command::new("bash");
    command.arg("walk-through.sh");
    workspace.set(&mut command);
    let said = workspace.run(command);
    let log = workspace.server_log();
    assert_eq!(said.code, Some(0), "{}\n{}\nthe server's log:\n{log}", said.stdout, said.stderr);
    assert!(said.stdout.ends_with("the whole life was seen\n"), "{}", said.stdout);
    assert!(workspace.scorers().is_empty(), "scorers are left");
}
