// Makes test vectors with the official library: what a nats-server sends to an auth callout, and what it
// accepts as an answer.
//
//	go run . > vectors.json          writes new ones
//	go run . check < answer.json     judges an answer of ours as nats-server would; the ignored test
//	                                 an_answer_for_the_official_library prints one
//
// The keys are made from fixed bytes and open nothing.
package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"
)

type keys struct {
	Server string `json:"server"`
	XKey   string `json:"serverXkey"`
	Issuer string `json:"issuer"`
	Curve  string `json:"calloutXkey"`
	User   string `json:"user"`
	Device string `json:"device"`
}

type vectors struct {
	Seeds keys `json:"seeds"`
	// A request as a nats-server makes it, and the same one sealed to the callout.
	Request string `json:"request"`
	Sealed  string `json:"sealed"`
	// Requests that no callout may believe, by what is wrong.
	Refused map[string]string `json:"refused"`
	// Users and answers as the library writes them.
	User     string `json:"userClaims"`
	Silent   string `json:"userClaimsWithoutPublish"`
	Admitted string `json:"admitted"`
	Denied   string `json:"denied"`
}

func must[T any](value T, err error) T {
	if err != nil {
		fmt.Fprintln(os.Stderr, "vectors:", err)
		os.Exit(1)
	}
	return value
}

func pair(prefix nkeys.PrefixByte, fill byte) nkeys.KeyPair {
	seed := must(nkeys.EncodeSeed(prefix, bytes.Repeat([]byte{fill}, 32)))
	if prefix == nkeys.PrefixByteCurve {
		return must(nkeys.FromCurveSeed(seed))
	}
	return must(nkeys.FromSeed(seed))
}

func seed(kp nkeys.KeyPair) string   { return string(must(kp.Seed())) }
func public(kp nkeys.KeyPair) string { return must(kp.PublicKey()) }

var (
	server = pair(nkeys.PrefixByteServer, 1)
	xkey   = pair(nkeys.PrefixByteCurve, 2)
	issuer = pair(nkeys.PrefixByteAccount, 3)
	curve  = pair(nkeys.PrefixByteCurve, 4)
	user   = pair(nkeys.PrefixByteUser, 5)
	device = pair(nkeys.PrefixByteUser, 6)
)

func request() *jwt.AuthorizationRequestClaims {
	nonce := "c0OFu2Fh7AQzOcY"
	claim := jwt.NewAuthorizationRequestClaims(public(issuer))
	claim.Audience = "nats-authorization-request"
	claim.Expires = 4102444800 // 2100-01-01
	claim.UserNkey = public(user)
	claim.Server = jwt.ServerID{
		Name: "nats-1", Host: "0.0.0.0", ID: public(server), Version: "2.15.2",
		Cluster: "fleet", Tags: jwt.TagList{"site:one"}, XKey: public(xkey),
	}
	claim.ClientInformation = jwt.ClientInformation{
		Host: "192.0.2.7", ID: 42, User: public(device), Name: "device-kubelet pi-7",
		Kind: "Client", Type: "nats", Nonce: nonce,
	}
	claim.ConnectOptions = jwt.ConnectOptions{
		Nkey:        public(device),
		SignedNonce: base64.RawURLEncoding.EncodeToString(must(device.Sign([]byte(nonce)))),
		Name:        "device-kubelet pi-7", Lang: "rust", Version: "0.51.0", Protocol: 1,
	}
	claim.TLS = &jwt.ClientTLS{Version: "1.3", Cipher: "TLS_AES_128_GCM_SHA256"}
	return claim
}

// resigned replaces parts of the payload's or header's JSON and signs again with the server's key.
func resigned(token, part, from, to string) string {
	chunks := strings.Split(token, ".")
	index := map[string]int{"header": 0, "payload": 1}[part]
	text := string(must(base64.RawURLEncoding.DecodeString(chunks[index])))
	if !strings.Contains(text, from) {
		fmt.Fprintf(os.Stderr, "vectors: %q is not in the %s\n", from, part)
		os.Exit(1)
	}
	chunks[index] = base64.RawURLEncoding.EncodeToString([]byte(strings.Replace(text, from, to, 1)))
	signature := must(server.Sign([]byte(chunks[0] + "." + chunks[1])))
	return chunks[0] + "." + chunks[1] + "." + base64.RawURLEncoding.EncodeToString(signature)
}

func userClaims(publish []string) *jwt.UserClaims {
	claim := jwt.NewUserClaims(public(user))
	claim.Name = "device:pi-7"
	claim.Audience = "FLEET"
	claim.Expires = 4102444800
	claim.Pub.Allow.Add(publish...)
	if len(publish) == 0 {
		claim.Pub.Deny.Add(">")
	}
	claim.Sub.Allow.Add("fleet.v1.3.pi-7.down.>", "_INBOX.pi-7.>")
	claim.Subs = 16
	claim.NatsLimits.Payload = 270336
	claim.AllowedConnectionTypes.Add(jwt.ConnectionTypeStandard)
	return claim
}

func generate() vectors {
	good := must(request().Encode(server))
	chunks := strings.Split(good, ".")
	signature := must(base64.RawURLEncoding.DecodeString(chunks[2]))
	signature[0] ^= 1
	stranger := pair(nkeys.PrefixByteServer, 9)
	foreign := must(request().Encode(stranger))
	account := request()
	account.Audience = "FLEET"
	asUser := must(userClaims([]string{"a"}).Encode(issuer))
	admitted := jwt.NewAuthorizationResponseClaims(public(user))
	admitted.Audience = public(server)
	admitted.Jwt = must(userClaims([]string{"fleet.v1.3.pi-7.up.>"}).Encode(issuer))
	denied := jwt.NewAuthorizationResponseClaims(public(user))
	denied.Audience = public(server)
	denied.Error = "not authorized"
	return vectors{
		Seeds:   keys{seed(server), seed(xkey), seed(issuer), seed(curve), seed(user), seed(device)},
		Request: good,
		Sealed:  base64.StdEncoding.EncodeToString(must(xkey.Seal([]byte(good), public(curve)))),
		Refused: map[string]string{
			"algorithm none":                resigned(good, "header", "ed25519-nkey", "none"),
			"algorithm of version 1":        resigned(good, "header", "ed25519-nkey", "ed25519"),
			"algorithm HS256":               resigned(good, "header", "ed25519-nkey", "HS256"),
			"changed signature":             chunks[0] + "." + chunks[1] + "." + base64.RawURLEncoding.EncodeToString(signature),
			"no signature":                  chunks[0] + "." + chunks[1] + ".",
			"two parts":                     chunks[0] + "." + chunks[1],
			"signature of another server":   strings.Join(chunks[:2], ".") + "." + strings.Split(foreign, ".")[2],
			"issuer is not the server":      foreign,
			"another audience":              must(account.Encode(server)),
			"claims of a user":              asUser,
			"user key is not one":           resigned(good, "payload", public(user), public(issuer)),
			"version from the future":       resigned(good, "payload", `"version":2`, `"version":3`),
			"type of another claim":         resigned(good, "payload", "authorization_request", "authorization_response"),
			"issuer signs with its account": resigned(good, "payload", `"iss":"`+public(server), `"iss":"`+public(issuer)),
		},
		User:     admitted.Jwt,
		Silent:   must(userClaims(nil).Encode(issuer)),
		Admitted: must(admitted.Encode(issuer)),
		Denied:   must(denied.Encode(issuer)),
	}
}

// What nats-server does with an answer, without the part that registers the user.
func check() error {
	var answer struct {
		Response string `json:"response"`
	}
	if err := json.NewDecoder(os.Stdin).Decode(&answer); err != nil {
		return err
	}
	sealed := must(base64.StdEncoding.DecodeString(answer.Response))
	text, err := xkey.Open(sealed, public(curve))
	if err != nil {
		return err
	}
	response, err := jwt.DecodeAuthorizationResponseClaims(string(text))
	if err != nil {
		return err
	}
	results := jwt.CreateValidationResults()
	response.Validate(results)
	if response.Error == "" {
		claims, err := jwt.DecodeUserClaims(response.Jwt)
		if err != nil {
			return err
		}
		claims.Validate(results)
		fmt.Println(claims)
	}
	for _, issue := range results.Issues {
		return fmt.Errorf("not valid: %v", issue)
	}
	fmt.Println(response)
	return nil
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == "check" {
		must(0, check())
		return
	}
	encoder := json.NewEncoder(os.Stdout)
	encoder.SetIndent("", "  ")
	must(0, encoder.Encode(generate()))
}
