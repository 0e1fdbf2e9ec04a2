//! Rollouts over the API: what cannot be begun, and what is in the way of one.

use serde_json::json;

use crate::place::Place;

const ROLLOUT: &str = "online-endpoints/weather/rollout";

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_rolled_out_is_refused_in_words() {
    let place = Place::new().await;
    let begin = async |body| place.post(ROLLOUT, body).await;
    begin(json!({"to": "green"})).await.problem(404, "not_found");
    place.put("online-endpoints/weather", json!({})).await.expect(201);
    let none = begin(json!({"to": "green"})).await.problem(404, "not_found");
    assert!(none["detail"].as_str().unwrap().contains("no deployment `green`"), "{none}");
    place.model("iris").await;
    let green = "online-endpoints/weather/deployments/green";
    let made = place.put(green, json!({"model": "azureml:iris@latest"})).await;
    made.expect(202);
    // The scorer of this place cannot start.
    assert_eq!(place.ended(&made).await["state"], "Failed");
    let failed = begin(json!({"to": "Green"})).await.problem(409, "conflict");
    assert!(failed["detail"].as_str().unwrap().contains("`green` is Failed"), "{failed}");
    assert!(failed["hint"].as_str().unwrap().contains("-n green -e weather"), "{failed}");
    for (body, word) in [
        (json!({}), "to"),
        (json!({"to": "green", "steps": "10:5m,50"}), "step 2 (`50`)"),
        (json!({"to": "green", "steps": 10}), "string"),
        (json!({"to": "green", "max_error_rate": "two"}), "`two`"),
        (json!({"to": "green", "max_p99": "5h"}), "`5h`"),
        (json!({"to": "green", "min_requests": 0}), "min_requests"),
        (json!({"to": "green", "max_p98": "1s"}), "max_p98"),
        (json!({"to": "../green"}), "name"),
    ] {
        let problem = begin(body).await.problem(400, "invalid_input");
        assert!(problem["detail"].as_str().unwrap().contains(word), "{word}: {problem}");
    }

    // Nothing of it stays.
    place.get(ROLLOUT).await.problem(404, "not_found");
    place.delete(ROLLOUT).await.problem(409, "conflict");
    let shown = place.get("online-endpoints/weather").await.expect(200);
    assert_eq!((&shown["rollout"], &shown["traffic"]), (&json!(null), &json!({})));
}
