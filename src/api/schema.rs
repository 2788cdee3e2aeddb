//! Pieces of the document that describe what the framework's macros cannot: bodies that are taken as they stream.

use poem_openapi::registry::{MetaMediaType, MetaSchema, MetaSchemaRef};

/// A body of this type.
pub(super) fn media(content_type: &'static str, schema: MetaSchema) -> MetaMediaType {
    MetaMediaType {
        content_type,
        schema: MetaSchemaRef::Inline(Box::new(schema)),
    }
}

/// Bytes.
pub(super) fn binary() -> MetaSchema {
    MetaSchema::new_with_format("string", "binary")
}

/// A list.
pub(super) fn array_of(schema: MetaSchema) -> MetaSchema {
    let items = Some(Box::new(MetaSchemaRef::Inline(Box::new(schema))));
    MetaSchema {
        items,
        ..MetaSchema::new("array")
    }
}

/// An object, or the fields of a form; `required` must be there.
pub(super) fn object(
    required: &'static str,
    properties: Vec<(&'static str, MetaSchema)>,
) -> MetaSchema {
    let properties = properties
        .into_iter()
        .map(|(name, schema)| (name, MetaSchemaRef::Inline(Box::new(schema))))
        .collect();
    MetaSchema {
        properties,
        required: vec![required],
        ..MetaSchema::new("object")
    }
}
