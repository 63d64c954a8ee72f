//! `#[derive(Config)]`: says which type is a model of settings, under which key, and which fields are secret.
//!
//! It writes no parser and no schema: serde and schemars do that on the same type.

use proc_macro::TokenStream;
use quote::quote;
use syn::{DeriveInput, LitStr, parse_macro_input};

/// Implements `harmony_config::Config`.
///
/// On the type: `#[config(key = "Name")]` where the key is not the type's name. On a field: `#[config(secret)]`, for
/// a value that is encrypted at rest, masked in output and asked for without echo.
#[proc_macro_derive(Config, attributes(config))]
pub fn derive_config(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    expand(&input).unwrap_or_else(syn::Error::into_compile_error).into()
}

fn expand(input: &DeriveInput) -> syn::Result<proc_macro2::TokenStream> {
    let name = &input.ident;
    let mut key = name.to_string();
    for attribute in input.attrs.iter().filter(|attribute| attribute.path().is_ident("config")) {
        attribute.parse_nested_meta(|meta| {
            if meta.path.is_ident("key") {
                key = meta.value()?.parse::<LitStr>()?.value();
                Ok(())
            } else {
                Err(meta.error("expected `key = \"…\"`"))
            }
        })?;
    }
    let (generics, types, bounds) = input.generics.split_for_impl();
    Ok(quote! {
        impl #generics ::harmony_config::Config for #name #types #bounds {
            const KEY: &'static str = #key;
        }
    })
}
