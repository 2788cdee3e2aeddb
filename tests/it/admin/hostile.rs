//! Bodies, paths and queries that nobody sends by mistake: whatever comes, the answer is a clear one, and never a failure of
//! ours. A seeded generator, so that a failure can be had again.

use reqwest::Method;
use serde_json::{Map, Value, json};

use crate::fixture::gateway::TestGateway;
use crate::fixture::store::TestStore;

/// Xorshift (Marsaglia 2003).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(bound).expect("a bound")).expect("small")
    }

    /// Any JSON, mostly of the kinds that a field could be mistaken for.
    fn value(&mut self, depth: usize) -> Value {
        match self.below(if depth == 0 { 12 } else { 14 }) {
            0 => Value::Null,
            1 => json!(self.next().is_multiple_of(2)),
            2 => json!(self.next()),
            3 => json!(-1),
            4 => json!(1e308),
            5 => json!(-0.0),
            6 => json!(i64::MIN),
            7 => json!(""),
            8 => json!("\u{0}\u{202e}\u{fffd}'; DROP TABLE tenants; --"),
            9 => json!("x".repeat(self.below(5000))),
            10 => json!("2027-01-31T12:00:00Z"),
            11 => json!("9999999-12-31T23:59:60+99:99"),
            12 => {
                let count = self.below(5);
                Value::Array((0..count).map(|_| self.value(depth - 1)).collect())
            }
            _ => {
                let count = self.below(4);
                let one = |random: &mut Self| (random.name(), random.value(depth - 1));
                Value::Object((0..count).map(|_| one(self)).collect())
            }
        }
    }

    fn name(&mut self) -> String {
        const NAMES: [&str; 16] = [
            "name",
            "tenant_id",
            "scopes",
            "models",
            "requests_per_second",
            "burst",
            "images_per_day",
            "max_image_bytes",
            "limit_mode",
            "expires_at",
            "role",
            "callback_url",
            "events",
            "id",
            "version",
            "title",
        ];
        let at = self.below(NAMES.len() + 1);
        NAMES
            .get(at)
            .map_or_else(|| "x".repeat(self.below(3000)), |name| (*name).to_owned())
    }

    /// An object that begins as a good one.
    fn body(&mut self, good: &Value) -> Value {
        let mut body: Map<String, Value> = good.as_object().expect("an object").clone();
        for _ in 0..=self.below(3) {
            let (name, value) = (self.name(), self.value(3));
            if self.below(4) == 0 {
                body.remove(&name);
            } else {
                body.insert(name, value);
            }
        }
        Value::Object(body)
    }
}

#[tokio::test]
async fn whatever_comes_is_answered_clearly() {
    let store = TestStore::digits();
    let gateway = TestGateway::start(store.path(), &[]).await;
    let tenant = gateway.tenant("acme").await;
    let (key, _) = gateway.key(json!({"name": "app"})).await;
    let mut random = Random(0x5eed_1e55_ca11_ab1e);
    let mut refused = 0;
    for round in 0..400 {
        let (method, path, good) = match random.below(7) {
            0 => (
                Method::POST,
                "/tenants".to_owned(),
                json!({"name": format!("t{round}")}),
            ),
            1 => (Method::PATCH, format!("/tenants/{tenant}"), json!({})),
            2 => (
                Method::POST,
                "/keys".to_owned(),
                json!({"tenant_id": tenant, "name": "k"}),
            ),
            3 => (Method::PATCH, format!("/keys/{key}"), json!({"burst": 3})),
            4 => (Method::POST, format!("/keys/{key}/rotate"), json!({})),
            5 => (
                Method::POST,
                "/tokens".to_owned(),
                json!({"name": "n", "role": "viewer"}),
            ),
            _ => (
                Method::PUT,
                "/models/digits/aliases/stable".to_owned(),
                json!({"version": 1}),
            ),
        };
        let body = random.body(&good);
        let answer = gateway
            .admin(method.clone(), &path, Some(body.clone()))
            .await;
        let status = answer.status.as_u16();
        assert!(status < 500, "{method} {path} {body} gave {answer:?}");
        if status >= 400 {
            let code = answer.body["code"].as_str().expect("a problem").to_owned();
            answer.assert_problem(status, &code);
            refused += 1;
        }
    }
    assert!(
        refused > 100,
        "only {refused} were refused: the generator is too tame"
    );
    for _ in 0..200 {
        let mut bytes =
            serde_json::to_vec(&json!({"tenant_id": tenant, "name": "k"})).expect("JSON");
        for _ in 0..=random.below(4) {
            let at = random.below(bytes.len());
            bytes[at] = u8::try_from(random.below(256)).expect("a byte");
        }
        let request = gateway.admin_request(Method::POST, "/keys");
        let request = request
            .header("content-type", "application/json")
            .body(bytes);
        let answer = gateway.send(request).await;
        assert!(answer.status.as_u16() < 500, "{answer:?}");
    }
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    let request = gateway.admin_request(Method::POST, "/tenants");
    let request = request
        .header("content-type", "application/json")
        .body(deep);
    gateway
        .send(request)
        .await
        .assert_problem(400, "bad_request");
    gateway
        .admin(Method::GET, "/status", None)
        .await
        .assert_ok();
}

#[tokio::test]
async fn ids_and_queries_that_are_none_are_refused() {
    let store = TestStore::digits();
    let gateway = TestGateway::start(store.path(), &[]).await;
    for id in [
        "..",
        "%2e%2e",
        "%00",
        "%ff",
        "a%2fb",
        "x%20y",
        "%5c",
        "0",
        "-1",
        &"9".repeat(300),
    ] {
        for kind in ["tenants", "keys", "tokens", "models"] {
            let answer = gateway
                .admin(Method::GET, &format!("/{kind}/{id}"), None)
                .await;
            let status = answer.status.as_u16();
            assert!(status == 404 || status == 400, "{kind}/{id}: {answer:?}");
        }
    }
    for query in [
        "from=x",
        "to=%00",
        "token_id=1",
        "limit=-1",
        "limit=1e9",
        "after=%27",
    ] {
        let answer = gateway
            .admin(Method::GET, &format!("/audit?{query}"), None)
            .await;
        answer.assert_problem(400, "bad_request");
    }
    let odd = gateway
        .admin(Method::GET, "/audit?action=%25_%27", None)
        .await;
    assert_eq!(odd.assert_ok()["items"], json!([]));
    let odd = gateway.admin(Method::GET, "/audit?target=%00", None).await;
    odd.assert_problem(400, "bad_request");
}
