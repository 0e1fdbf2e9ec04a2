//! Conda files, as people write them.

use moorline_spec::{
    Environment, SourceFile,
    conda::{self, CondaFile},
};

use crate::sample::{folder, load_in, said};

fn parse(text: &str) -> Result<CondaFile, String> {
    conda::parse(&SourceFile::new("conda.yml", text)).map_err(|refusal| refusal.to_string())
}

#[test]
fn packages_are_split_into_names_and_constraints() {
    let file = parse(
        "
name: env
channels: [conda-forge, defaults]
dependencies:
- python=3.12
- numpy>=1.2,<3
- conda-forge::Pandas==2.0
- scipy 1.8*
- scikit-learn=1.2=py312_0
- pip=24
- pip:
  - mlflow[extras]==2.9
  - --extra-index-url https://example.com/simple
prefix: /opt/env
",
    )
    .unwrap();
    let packages: Vec<String> = file
        .packages
        .iter()
        .map(|package| format!("{:?} {} {}", package.channel, package.name, package.constraint))
        .collect();
    insta::assert_snapshot!(packages.join("\n"), @r#"
    None numpy >=1.2,<3
    Some("conda-forge") pandas ==2.0
    None scipy =1.8*
    None scikit-learn =1.2=py312_0
    None pip =24
    "#);
    assert_eq!(file.python.as_deref(), Some("3.12"));
    assert_eq!(file.channels, ["conda-forge", "defaults"]);
    assert_eq!(file.pip, ["mlflow[extras]==2.9", "--extra-index-url https://example.com/simple"]);
}

#[test]
fn python_is_what_was_asked_for() {
    for (written, constraint) in [
        ("python", ""),
        ("python=3.12", "3.12"),
        ("python==3.12.1", "3.12.1"),
        ("python=3.12.*", "3.12"),
        ("python 3.11", "3.11"),
        ("python>=3.10,<3.13", ">=3.10,<3.13"),
        ("python=3.10=h123", "3.10"),
    ] {
        let file = parse(&format!("dependencies: ['{written}']\n")).unwrap();
        assert_eq!(file.python.as_deref(), Some(constraint), "{written}");
    }
    assert_eq!(parse("dependencies: [numpy]\n").unwrap().python, None);
    assert_eq!(parse("dependencies:\n").unwrap(), CondaFile::default());
}

#[test]
fn refusals_have_their_places() {
    let refusal = |text: &str| parse(text).unwrap_err();
    insta::assert_snapshot!(refusal("dependancies: [a]\n"), @"conda.yml:1:1: unknown key `dependancies` in conda file; did you mean `dependencies`?");
    insta::assert_snapshot!(refusal("
dependencies:
- python=3.12
- python=3.11
- numpy[version='>1']
- '>=3'
- 5
- pip: text
- pip: [b]
"), @r#"
    conda.yml:4:3: `python` is asked for twice
    conda.yml:5:3: `dependencies[2]` is the text `numpy[version='>1']`; expected a package: `name`, `name=version`, `channel::name>=version`
    conda.yml:6:3: `dependencies[3]` is the text `>=3`; expected a package: `name`, `name=version`, `channel::name>=version`
    conda.yml:7:3: `dependencies[4]` is the number 5; expected text; put it in quotes: "5"
    conda.yml:8:8: `pip` is the text `text`; expected a list
    conda.yml:9:3: a second `pip:` list; one is enough
    "#);
    insta::assert_snapshot!(refusal("dependencies:\n- pip: [numpy, -c c.txt, ./x.whl, 5]\n  pipp: [b]\n"), @r#"
    conda.yml:2:16: `-c c.txt` names a constraints file, which an environment cannot carry; write the constraints into the requirements themselves
    conda.yml:2:26: `./x.whl` is a path, and an environment travels without its folder; put the package on an index, or its source beside the scoring script
    conda.yml:2:35: `dependencies[0].pip[3]` is the number 5; expected text; put it in quotes: "5"
    conda.yml:3:3: unknown key `pipp` in dependency; did you mean `pip`?
    "#);
    insta::assert_snapshot!(refusal("- a\n"), @"conda.yml:1:1: the document is a list; expected an object with keys");
    insta::assert_snapshot!(said::<Environment>("name: e\nimage: i\nconda_file: {dependencies: {a: b}}\n"), @"doc.yml:3:28: `dependencies` is an object; expected a list");
    insta::assert_snapshot!(said::<Environment>("name: e\nimage: i\nconda_file: {dependencies: [a], extra: 1}\n"), @"doc.yml:3:33: warning: conda knows no key `extra`; it is not looked at");
}

#[test]
fn an_environment_carries_the_text_of_its_conda_file() {
    let folder = folder();
    let text = |document: &str| {
        let loaded = load_in::<Environment>(folder.path(), document, &[]).unwrap();
        loaded.document.conda_file.unwrap()
    };
    assert_eq!(text("name: e\nimage: i\nconda_file: conda.yml\n"), crate::sample::CONDA);
    insta::assert_snapshot!(text("
name: e
image: i
conda_file:
  channels: [conda-forge]
  dependencies: [python=3.12, {pip: ['a==1']}]
"), @r"
    channels:
    - conda-forge
    dependencies:
    - python=3.12
    - pip:
      - a==1
    ");
    fs_err::write(folder.path().join("requirements.txt"), "numpy==2\n# no\npandas\n").unwrap();
    fs_err::write(
        folder.path().join("with.yml"),
        "dependencies: [python=3.12, pip: [-r requirements.txt, x]]\n",
    )
    .unwrap();
    insta::assert_snapshot!(text("name: e\nimage: i\nconda_file: with.yml\n"), @r"
    dependencies:
    - python=3.12
    - pip:
      - numpy==2
      - pandas
      - x
    ");
    let block = "name: e\nimage: i\nconda_file: |\n  dependencies:\n  - numpy\n";
    assert_eq!(text(block), "dependencies:\n- numpy\n");
}
