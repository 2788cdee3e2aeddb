//! The routes of a plane, read off the OpenAPI document: which one a path is of, and which methods it takes, for the `Allow`
//! header of a 405.

use std::sync::Arc;

/// Every route.
pub(super) struct RouteTable(Vec<Route>);

/// A route.
pub(super) struct Route {
    /// As in the document, e.g. `/v1/models/{model}/classify`.
    pub(super) template: Arc<str>,
    /// Its methods, comma-separated.
    pub(super) methods: String,
    segments: Vec<Segment>,
}

enum Segment {
    Is(String),
    Any,
}

impl Route {
    fn new(template: &str, methods: String) -> Self {
        let segments = segments(template).map(|segment| {
            if segment.starts_with('{') {
                Segment::Any
            } else {
                Segment::Is(segment.to_owned())
            }
        });
        Self {
            template: template.into(),
            methods,
            segments: segments.collect(),
        }
    }

    fn fits(&self, path: &str) -> bool {
        let mut wanted = segments(path);
        let fit = self.segments.iter().all(|segment| {
            let given = wanted.next();
            match segment {
                Segment::Any => given.is_some(),
                Segment::Is(name) => given == Some(name),
            }
        });
        fit && wanted.next().is_none()
    }

    fn literals(&self) -> usize {
        let literal = |segment: &&Segment| matches!(segment, Segment::Is(_));
        self.segments.iter().filter(literal).count()
    }
}

impl RouteTable {
    pub(super) fn of(document: &str) -> Self {
        let document: serde_json::Value = serde_json::from_str(document).unwrap_or_default();
        let paths = document.get("paths").and_then(serde_json::Value::as_object);
        let mut routes: Vec<Route> = paths
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
                Route::new(path, allow.join(", "))
            })
            .collect();
        for page in ["/docs", "/openapi.json"] {
            routes.push(Route::new(page, "GET, HEAD".to_owned()));
        }
        // Of two that fit, the router takes the one that says more of the path.
        routes.sort_by_key(|route| std::cmp::Reverse(route.literals()));
        Self(routes)
    }

    /// The route that a path is of.
    pub(super) fn find(&self, path: &str) -> Option<&Route> {
        self.0.iter().find(|route| route.fits(path))
    }
}

fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.trim_matches('/').split('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_found_through_parameters() {
        let table = RouteTable::of(
            r#"{"paths": {"/v1/models/{model}": {"get": {}, "post": {}}, "/a/{b}": {"get": {}}, "/a/c": {"post": {}}}}"#,
        );
        let found = |path: &str| {
            let route = table.find(path);
            route.map(|route| (&*route.template, route.methods.as_str()))
        };
        let model = Some(("/v1/models/{model}", "GET, HEAD, POST"));
        assert_eq!(found("/v1/models/digits"), model);
        assert_eq!(found("/a/c"), Some(("/a/c", "POST")));
        assert_eq!(found("/a/d"), Some(("/a/{b}", "GET, HEAD")));
        assert_eq!(found("/docs"), Some(("/docs", "GET, HEAD")));
        assert_eq!(found("/v1/models"), None);
        assert_eq!(found("/v1/models/digits/x"), None);
    }
}
