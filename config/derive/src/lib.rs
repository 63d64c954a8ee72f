//! `#[derive(Config)]`: says which type is a model of settings, under which key, which fields are secret, and how
//! values of older shapes become today's.
//!
//! It writes no parser and no schema: serde and schemars do that on the same type, and the names of fields are those
//! that serde reads.

use proc_macro::TokenStream;
use proc_macro2::Span;
use quote::{quote, quote_spanned};
use serde_derive_internals::{
    Ctxt, Derive,
    ast::{Container, Data, Field, Style},
};
use syn::{DeriveInput, Ident, LitStr, Path, Token, Type, parse_macro_input, spanned::Spanned};

/// Implements `harmony_config::Config` for a struct with named fields.
///
/// On the type:
/// - `#[config(key = "Name")]` where the key is not the type's name;
/// - `#[config(migrate_from("0123456789abcdef", function))]` for values that were stored under that schema version;
///   the function is `fn(Document) -> Result<Document, String>` and gives values of today's shape. Repeatable.
///
/// On a field:
/// - `#[config(secret)]` for a value that is encrypted at rest, masked in output and asked for without echo;
/// - `#[config(nested)]` for a struct that itself derives `Config`: its secrets count here, too. A `Secret<T>` is
///   found anywhere without being marked.
#[proc_macro_derive(Config, attributes(config))]
pub fn derive_config(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    expand(&input).unwrap_or_else(syn::Error::into_compile_error).into()
}

/// What stands in `#[config(…)]` on the type.
struct Outer {
    key: LitStr,
    migrations: Vec<(LitStr, Path)>,
}

/// What stands in `#[config(…)]` on a field.
#[derive(Default)]
struct Inner {
    secret: Option<Span>,
    nested: Option<Span>,
}

fn expand(input: &DeriveInput) -> syn::Result<proc_macro2::TokenStream> {
    let outer = outer(input)?;
    if let Some(parameter) = input.generics.params.first() {
        return Err(syn::Error::new(
            parameter.span(),
            "a model of settings has no parameters: its key stands for one shape of values",
        ));
    }
    let context = Ctxt::new();
    let private = Ident::new("__private", Span::call_site());
    let container = Container::from_ast(&context, input, Derive::Deserialize, &private);
    context.check()?;
    let Some(Container { data: Data::Struct(Style::Struct, fields), .. }) = container else {
        return Err(syn::Error::new(
            input.ident.span(),
            "settings are a struct with named fields: each field has its own source. Put an enum, or a tuple, into a \
             field of such a struct",
        ));
    };

    let mut secrets = Vec::new();
    let mut nested = Vec::new();
    for field in &fields {
        let marks = inner(field)?;
        let name = &field.attrs.name().deserialize_name().value;
        match marks {
            Inner { secret: Some(_), nested: Some(span) } => {
                return Err(syn::Error::new(span, "a field is `secret` as a whole, or `nested`; not both"));
            }
            Inner { secret: Some(span), .. } if field.attrs.flatten() => {
                return Err(syn::Error::new(
                    span,
                    "a flattened field has no name of its own: mark the fields inside, or use Secret<…> there",
                ));
            }
            Inner { secret: Some(_), .. } => secrets.push(name.clone()),
            Inner { nested: Some(_), .. } => {
                let inner = bare(field.ty);
                let place = match field.attrs.flatten() {
                    true => quote!(::harmony_config::FieldPath::root()),
                    false => quote!(::harmony_config::FieldPath::root().join(#name)),
                };
                nested.push(quote_spanned! {field.ty.span()=>
                    places.extend(
                        <#inner as ::harmony_config::Config>::secrets().iter().map(|inner| #place.append(inner))
                    );
                });
            }
            Inner { secret: None, nested: None } => {}
        }
    }

    let name = &input.ident;
    let key = &outer.key;
    let (versions, functions): (Vec<_>, Vec<_>) = outer.migrations.into_iter().unzip();
    Ok(quote! {
        impl ::harmony_config::Config for #name {
            const KEY: &'static str = #key;
            const SECRETS: &'static [&'static str] = &[#(#secrets),*];

            fn secrets() -> ::std::vec::Vec<::harmony_config::FieldPath> {
                #[allow(unused_mut)]
                let mut places: ::std::vec::Vec<::harmony_config::FieldPath> =
                    Self::SECRETS.iter().map(|field| ::harmony_config::FieldPath::root().join(field)).collect();
                #(#nested)*
                places
            }

            fn migrations() -> ::std::vec::Vec<::harmony_config::Migration> {
                ::std::vec![#(::harmony_config::Migration::new(#versions, #functions)),*]
            }
        }
    })
}

fn outer(input: &DeriveInput) -> syn::Result<Outer> {
    let name = &input.ident;
    let mut outer = Outer { key: LitStr::new(&name.to_string(), name.span()), migrations: Vec::new() };
    for attribute in input.attrs.iter().filter(|attribute| attribute.path().is_ident("config")) {
        attribute.parse_nested_meta(|meta| {
            if meta.path.is_ident("key") {
                outer.key = meta.value()?.parse()?;
                Ok(())
            } else if meta.path.is_ident("migrate_from") {
                let content;
                syn::parenthesized!(content in meta.input);
                let version: LitStr = content.parse()?;
                let _: Token![,] = content.parse()?;
                let function: Path = content.parse()?;
                check_version(&version)?;
                if outer.migrations.iter().any(|(known, _)| known.value() == version.value()) {
                    return Err(syn::Error::new(
                        version.span(),
                        "there already is a function for this version",
                    ));
                }
                outer.migrations.push((version, function));
                Ok(())
            } else {
                Err(meta.error("on a type, expected `key = \"…\"` or `migrate_from(\"version\", function)`"))
            }
        })?;
    }
    check_key(&outer.key)?;
    Ok(outer)
}

fn inner(field: &Field<'_>) -> syn::Result<Inner> {
    let mut inner = Inner::default();
    for attribute in field.original.attrs.iter().filter(|attribute| attribute.path().is_ident("config")) {
        attribute.parse_nested_meta(|meta| {
            let mark = if meta.path.is_ident("secret") {
                &mut inner.secret
            } else if meta.path.is_ident("nested") {
                &mut inner.nested
            } else {
                return Err(meta.error("on a field, expected `secret` or `nested`"));
            };
            *mark = Some(meta.path.span());
            Ok(())
        })?;
    }
    Ok(inner)
}

/// The type inside of `Option<…>` and `Box<…>`: both are written as what they hold.
fn bare(ty: &Type) -> &Type {
    if let Type::Path(path) = ty
        && let Some(last) = path.path.segments.last()
        && (last.ident == "Option" || last.ident == "Box")
        && let syn::PathArguments::AngleBracketed(arguments) = &last.arguments
        && let Some(syn::GenericArgument::Type(inner)) = arguments.args.first()
    {
        return bare(inner);
    }
    ty
}

/// The same rules as `Key`: what breaks them is better found by the compiler.
fn check_key(key: &LitStr) -> syn::Result<()> {
    let text = key.value();
    let good = (1..=64).contains(&text.len())
        && text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && !text.contains("__");
    match good {
        true => Ok(()),
        false => Err(syn::Error::new(
            key.span(),
            "a key is 1 to 64 of A-Z, a-z, 0-9 and _, begins with a letter and has no two _ in a row; give one with \
             #[config(key = \"…\")]",
        )),
    }
}

fn check_version(version: &LitStr) -> syn::Result<()> {
    let text = version.value();
    match text.len() == 16 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        true => Ok(()),
        false => Err(syn::Error::new(
            version.span(),
            "a schema version is sixteen hex digits, as `explain` and the error about the stored value show it",
        )),
    }
}

#[cfg(test)]
mod tests {
    use syn::parse_quote;

    use super::*;

    fn refused(input: DeriveInput) -> String {
        expand(&input).unwrap_err().to_string()
    }

    #[test]
    fn names_are_those_that_serde_reads() {
        let written = expand(&parse_quote! {
            #[config(key = "Other", migrate_from("0123456789abcdef", old::one))]
            #[serde(rename_all = "kebab-case")]
            struct Settings {
                #[config(secret)]
                api_token: String,
                #[config(secret)]
                #[serde(rename(deserialize = "pin"))]
                number: u32,
            }
        });
        let written = written.unwrap().to_string();
        for expected in ["\"Other\"", "\"api-token\"", "\"pin\"", "\"0123456789abcdef\" , old :: one"] {
            assert!(written.contains(expected), "{expected} is not in {written}");
        }
    }

    #[test]
    fn what_cannot_be_a_model_is_refused_with_the_way_on() {
        assert!(refused(parse_quote! { enum A { B } }).contains("struct with named fields"));
        assert!(refused(parse_quote! { struct A(u8); }).contains("struct with named fields"));
        assert!(refused(parse_quote! { struct A<T> { b: T } }).contains("no parameters"));
        assert!(refused(parse_quote! { struct A__B { c: u8 } }).contains("#[config(key = "));
        assert!(refused(parse_quote! { #[config(key = "a/b")] struct A { c: u8 } }).contains("1 to 64"));
    }

    #[test]
    fn a_mark_that_means_nothing_is_refused() {
        assert!(refused(parse_quote! { #[config(secret)] struct A { b: u8 } }).contains("on a type"));
        assert!(
            refused(parse_quote! { struct A { #[config(hidden)] b: u8 } }).contains("`secret` or `nested`")
        );
        let both = parse_quote! { struct A { #[config(secret, nested)] b: B } };
        assert!(refused(both).contains("not both"));
        let flat = parse_quote! { struct A { #[config(secret)] #[serde(flatten)] b: B } };
        assert!(refused(flat).contains("no name of its own"));
    }

    #[test]
    fn a_version_that_is_none_is_refused() {
        let short = parse_quote! { #[config(migrate_from("abc", old))] struct A { b: u8 } };
        assert!(refused(short).contains("sixteen hex digits"));
        let twice = parse_quote! {
            #[config(migrate_from("0123456789abcdef", one), migrate_from("0123456789abcdef", two))]
            struct A { b: u8 }
        };
        assert!(refused(twice).contains("already"));
    }
}
