//! Which methods a path takes: for the `Allow` header of a 405, read off the OpenAPI document.

/// The methods of every route.
pub(super) struct AllowTable(Vec<(Vec<String>, String)>);

impl AllowTable {
    pub(super) fn of(document: &str) -> Self {
        let document: serde_json::Value = serde_json::from_str(document).unwrap_or_default();
        let paths = document.get("paths").and_then(serde_json::Value::as_object);
        let mut routes: Vec<(Vec<String>, String)> = paths
            .into_iter()
            .flatten()
            .map(|(path, methods)| {
                let names = methods
                    .as_object()
                    .into_iter()
                    .flatten()
                    .map(|(name, _)| name);
                let allow: Vec<String> = names
                    .filter(|name| {
                        ["get", "post", "put", "patch", "delete"].contains(&name.as_str())
                    })
                    .map(|name| name.to_uppercase())
                    .flat_map(|name| match name.as_str() {
                        // The listener serves HEAD wherever GET is served.
                        "GET" => vec![name, "HEAD".to_owned()],
                        _ => vec![name],
                    })
                    .collect();
                (segments(path), allow.join(", "))
            })
            .collect();
        for page in ["/docs", "/openapi.json"] {
            routes.push((segments(page), "GET, HEAD".to_owned()));
        }
        Self(routes)
    }

    /// The methods of `path`, comma-separated; empty where there is no such route.
    pub(super) fn methods(&self, path: &str) -> &str {
        let wanted = segments(path);
        let fits = |template: &Vec<String>| {
            template.len() == wanted.len()
                && template
                    .iter()
                    .zip(&wanted)
                    .all(|(t, w)| t.starts_with('{') || t == w)
        };
        // Of two that fit, the router has taken the one that says more of it.
        let literals =
            |template: &[String]| template.iter().filter(|t| !t.starts_with('{')).count();
        self.0
            .iter()
            .filter(|(template, _)| fits(template))
            .max_by_key(|(template, _)| literals(template))
            .map_or("", |(_, methods)| methods)
    }
}

fn segments(path: &str) -> Vec<String> {
    path.trim_matches('/')
        .split('/')
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_found_through_parameters() {
        let table = AllowTable::of(r#"{"paths": {"/v1/models/{model}": {"get": {}, "post": {}}}}"#);
        assert_eq!(table.methods("/v1/models/digits"), "GET, HEAD, POST");
        let table = AllowTable::of(r#"{"paths": {"/a/{b}": {"get": {}}, "/a/c": {"post": {}}}}"#);
        assert_eq!(table.methods("/a/c"), "POST");
        assert_eq!(table.methods("/docs"), "GET, HEAD");
        assert_eq!(table.methods("/v1/models"), "");
    }
}
