//! Logs are read in order, over files that are turned over, while they are written and after their replica ended.

use std::time::Duration;

use futures_util::StreamExt;
use moorline_core::{LogOptions, Observation, Phase, Target};
use moorline_testkit::{deployment, observed};

use crate::{
    http::post,
    place::{Home, Scripted},
};

const SCRIPT: &str = "def init():\n    pass\n\ndef run(data):\n    print('line ' + data)\n    return data\n";
const LINES: usize = 60;

/// The numbers that the script printed, in the order of the log.
fn numbers(text: &str) -> Vec<usize> {
    let number = |line: &str| line.split_once(" line ")?.1.split(' ').next()?.parse().ok();
    text.lines().filter_map(number).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_followed_over_turned_files_and_kept() {
    // Five files of this size hold all of the lines between them, and none holds more than a few.
    let Some(home) = Home::open(|config| config.log_file_bytes = 4000).await else { return };
    let (release, id) = (Scripted::new(SCRIPT), deployment("logged", "blue"));
    home.target.apply(&release.placement(&id, 1)).await.unwrap();
    let ready = |seen: &Observation| seen.phase == Phase::Ready;
    let seen = observed(&*home.target, &id, "a ready replica", ready).await;
    let replica = seen.replicas[0].id.clone();
    let address = seen.replicas[0].address.unwrap();
    let follow = LogOptions { tail: Some(0), follow: true, replica: Some(replica.clone()), request_id: None };
    let mut followed = home.target.logs(&id, follow).await.unwrap();
    for number in 0..LINES {
        let reply = post(address.data, "/score", &number.to_string()).await.unwrap();
        assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
    }
    let mut text = String::new();
    while numbers(&text).len() < LINES {
        let piece = tokio::time::timeout(Duration::from_mins(1), followed.next()).await;
        let piece = piece.expect("the lines come").expect("a log that is followed has no end").unwrap();
        text.push_str(std::str::from_utf8(&piece).unwrap());
    }
    assert_eq!(numbers(&text), (0..LINES).collect::<Vec<_>>());
    let files = home.files();
    let turned = files.iter().filter(|(path, _)| path.to_string_lossy().contains("scorer.log.")).count();
    assert!(turned > 1, "the log was turned over");

    let read = async |options: LogOptions| {
        let mut stream = home.target.logs(&id, options).await.unwrap();
        let mut text = String::new();
        while let Some(piece) = stream.next().await {
            text.push_str(std::str::from_utf8(&piece.unwrap()).unwrap());
        }
        text
    };
    let tail = read(LogOptions { tail: Some(3), ..LogOptions::default() }).await;
    assert_eq!(tail.lines().count(), 3);
    assert_eq!(numbers(&tail), (LINES - 3..LINES).collect::<Vec<_>>());
    assert!(tail.starts_with(&format!("[{replica}] 20")), "{tail}");

    home.target.apply(&release.placement(&id, 0)).await.unwrap();
    observed(&*home.target, &id, "no replica", |seen| seen.phase == Phase::Ready && seen.replicas.is_empty())
        .await;
    let kept = read(LogOptions { replica: Some(replica), ..LogOptions::default() }).await;
    assert!(kept.contains("line 59") && kept.contains(" stopped"), "{kept}");
    assert!(
        home.target
            .logs(&id, LogOptions { replica: Some("0".to_owned()), ..LogOptions::default() })
            .await
            .is_err()
    );
    home.target.remove(&id).await.unwrap();
    while tokio::time::timeout(Duration::from_mins(1), followed.next())
        .await
        .expect("a log that is followed ends with its deployment")
        .is_some()
    {}
    home.close().await;
}
