package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/subtle"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/zitadel/oidc/v3/example/server/storage"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

const (
	rolesClaim = "urn:zitadel:iam:org:project:roles"
	// Zitadel's way to ask for an audience: the project's id between these two.
	audiencePrefix = "urn:zitadel:iam:org:project:id:"
	audienceSuffix = ":aud"
)

// account is a person or a machine.
type account struct {
	ID    string   `json:"id"`
	Roles []string `json:"roles"`
	// Keys of a machine: id and public key (PEM, SubjectPublicKeyInfo).
	Keys map[string]string `json:"keys"`
	// Secret of a machine, for client credentials.
	Secret string `json:"secret"`
	// Audience is in every token of the account, beside what scopes ask for.
	Audience []string `json:"audience"`
	// LifetimeSeconds of its tokens; below zero they are made expired.
	LifetimeSeconds int `json:"lifetimeSeconds"`
	// AheadSeconds by which its tokens begin in the future (client credentials only).
	AheadSeconds int `json:"aheadSeconds"`
}

// store is the library's example storage with accounts, keys and lifetimes of ours.
type store struct {
	*storage.Storage
	client   string
	lifetime time.Duration

	mu        sync.Mutex
	accounts  map[string]account
	signing   *signingKey
	published []op.Key
	refresh   map[string]*refreshRequest
}

var (
	_ op.Storage                    = (*store)(nil)
	_ op.ClientCredentialsStorage   = (*store)(nil)
	_ op.JWTProfileTokenStorage     = (*store)(nil)
	_ op.DeviceAuthorizationStorage = (*store)(nil)
	_ op.CanSetUserinfoFromRequest  = (*store)(nil)
)

func newStore(algorithm, client string, lifetime time.Duration) (*store, error) {
	storage.RegisterClients(storage.NativeClient(client))
	s := &store{
		Storage:  storage.NewStorage(storage.NewUserStore("http://localhost")),
		client:   client,
		lifetime: lifetime,
		accounts: map[string]account{},
		refresh:  map[string]*refreshRequest{},
	}
	return s, s.rotate(algorithm, false)
}

// Accounts.

func (s *store) put(one account) error {
	if one.ID == "" {
		return errors.New("an account needs an id")
	}
	for id, text := range one.Keys {
		if _, err := publicKey(text); err != nil {
			return fmt.Errorf("key %s of %s: %w", id, one.ID, err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.accounts[one.ID] = one
	return nil
}

func (s *store) putAccount(w http.ResponseWriter, r *http.Request) {
	var one account
	err := json.NewDecoder(r.Body).Decode(&one)
	if err == nil {
		err = s.put(one)
	}
	answer(w, err)
}

// registerKey makes a key for a machine, keeps the public half and gives the file with the private one.
func (s *store) registerKey(w http.ResponseWriter, r *http.Request) {
	one, err := s.account(r.FormValue("account"))
	if err != nil {
		answer(w, err)
		return
	}
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		answer(w, err)
		return
	}
	public, err := x509.MarshalPKIXPublicKey(private.Public())
	if err != nil {
		answer(w, err)
		return
	}
	id, keys := rand.Text(), map[string]string{}
	for known, key := range one.Keys {
		keys[known] = key
	}
	keys[id] = string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}))
	one.Keys = keys
	if err := s.put(one); err != nil {
		answer(w, err)
		return
	}
	block := &pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(private)}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]string{
		"type": "serviceaccount", "keyId": id, "userId": one.ID, "key": string(pem.EncodeToMemory(block)),
	})
}

func (s *store) account(id string) (account, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	one, ok := s.accounts[id]
	if !ok {
		return one, errors.New("no such account")
	}
	return one, nil
}

func (s *store) audience(id string, scopes []string) []string {
	one, _ := s.account(id)
	all := append([]string(nil), one.Audience...)
	for _, scope := range scopes {
		if project, ok := strings.CutPrefix(scope, audiencePrefix); ok {
			if project, ok = strings.CutSuffix(project, audienceSuffix); ok {
				all = append(all, project)
			}
		}
	}
	return all
}

// roles is an object: each role has the organizations that granted it.
func (s *store) roles(id string) map[string]any {
	one, _ := s.account(id)
	roles := map[string]any{}
	for _, role := range one.Roles {
		roles[role] = map[string]string{"1": "fleet.example.com"}
	}
	return roles
}

// Signing keys.

type signingKey struct {
	id        string
	algorithm jose.SignatureAlgorithm
	private   crypto.Signer
}

func (k *signingKey) ID() string                                  { return k.id }
func (k *signingKey) SignatureAlgorithm() jose.SignatureAlgorithm { return k.algorithm }
func (k *signingKey) Key() any                                    { return k.private }

type verifyingKey struct{ of *signingKey }

func (k verifyingKey) ID() string                         { return k.of.id }
func (k verifyingKey) Algorithm() jose.SignatureAlgorithm { return k.of.algorithm }
func (k verifyingKey) Use() string                        { return "sig" }
func (k verifyingKey) Key() any                           { return k.of.private.Public() }

// rotate signs with a new key from now on. The old ones stay in the key set, or are forgotten.
func (s *store) rotate(algorithm string, forget bool) error {
	next := &signingKey{id: rand.Text(), algorithm: jose.SignatureAlgorithm(algorithm)}
	var err error
	switch next.algorithm {
	case jose.RS256:
		next.private, err = rsa.GenerateKey(rand.Reader, 2048)
	case jose.ES256:
		next.private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case jose.EdDSA:
		_, next.private, err = ed25519.GenerateKey(rand.Reader)
	default:
		err = fmt.Errorf("no algorithm %q", algorithm)
	}
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if forget {
		s.published = nil
	}
	s.signing = next
	s.published = append([]op.Key{verifyingKey{next}}, s.published...)
	return nil
}

func (s *store) rotateKeys(w http.ResponseWriter, r *http.Request) {
	key, _ := s.SigningKey(r.Context())
	algorithm := r.FormValue("algorithm")
	if algorithm == "" {
		algorithm = string(key.SignatureAlgorithm())
	}
	answer(w, s.rotate(algorithm, r.FormValue("forget") == "true"))
}

// signClaims signs whatever claims it is given, under the key id that it is given: the tokens that no provider issues.
func (s *store) signClaims(w http.ResponseWriter, r *http.Request) {
	claims, err := io.ReadAll(r.Body)
	if err != nil {
		answer(w, err)
		return
	}
	s.mu.Lock()
	key := *s.signing
	s.mu.Unlock()
	if id := r.FormValue("kid"); id != "" {
		key.id = id
	}
	signer, err := jose.NewSigner(
		jose.SigningKey{Algorithm: key.algorithm, Key: jose.JSONWebKey{Key: key.private, KeyID: key.id}},
		(&jose.SignerOptions{}).WithType("JWT"),
	)
	if err != nil {
		answer(w, err)
		return
	}
	signed, err := signer.Sign(claims)
	if err != nil {
		answer(w, err)
		return
	}
	token, err := signed.CompactSerialize()
	if err != nil {
		answer(w, err)
		return
	}
	_, _ = io.WriteString(w, token)
}

func (s *store) SigningKey(context.Context) (op.SigningKey, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.signing, nil
}

func (s *store) SignatureAlgorithms(context.Context) ([]jose.SignatureAlgorithm, error) {
	return []jose.SignatureAlgorithm{jose.RS256, jose.ES256, jose.EdDSA}, nil
}

func (s *store) KeySet(context.Context) ([]op.Key, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]op.Key(nil), s.published...), nil
}

// Clients. All tokens are JWTs.

type client struct {
	*storage.Client
	grants []oidc.GrantType
	id     string
	skew   time.Duration
}

func (c client) GetID() string                       { return c.id }
func (c client) GrantTypes() []oidc.GrantType        { return c.grants }
func (c client) AccessTokenType() op.AccessTokenType { return op.AccessTokenTypeJWT }
func (c client) ClockSkew() time.Duration            { return c.skew }
func (c client) IsScopeAllowed(string) bool          { return true }

func (s *store) GetClientByClientID(_ context.Context, id string) (op.Client, error) {
	if id != s.client {
		return nil, oidc.ErrInvalidClient().WithDescription("no such client")
	}
	grants := []oidc.GrantType{oidc.GrantTypeDeviceCode, oidc.GrantTypeRefreshToken}
	return client{Client: storage.NativeClient(id), grants: grants, id: id}, nil
}

func (s *store) ClientCredentials(_ context.Context, id, secret string) (op.Client, error) {
	one, err := s.account(id)
	if err != nil || one.Secret == "" || subtle.ConstantTimeCompare([]byte(one.Secret), []byte(secret)) != 1 {
		return nil, errors.New("unknown client or wrong secret")
	}
	return client{
		Client: storage.WebClient(id, ""),
		grants: []oidc.GrantType{oidc.GrantTypeClientCredentials},
		id:     id,
		// A clock that is ahead is a skew below zero.
		skew: -time.Duration(one.AheadSeconds) * time.Second,
	}, nil
}

func (s *store) ClientCredentialsTokenRequest(_ context.Context, id string, scopes []string) (op.TokenRequest, error) {
	return &oidc.JWTTokenRequest{Issuer: id, Subject: id, Scopes: scopes}, nil
}

func (s *store) GetKeyByIDAndClientID(_ context.Context, keyID, id string) (*jose.JSONWebKey, error) {
	one, err := s.account(id)
	if err != nil {
		return nil, err
	}
	text, ok := one.Keys[keyID]
	if !ok {
		return nil, errors.New("no such key")
	}
	key, err := publicKey(text)
	return &jose.JSONWebKey{KeyID: keyID, Use: "sig", Key: key}, err
}

func (s *store) ValidateJWTProfileScopes(_ context.Context, _ string, scopes []string) ([]string, error) {
	return scopes, nil
}

func (s *store) JWTProfileTokenType(context.Context, op.TokenRequest) (op.AccessTokenType, error) {
	return op.AccessTokenTypeJWT, nil
}

// Tokens and claims.

func (s *store) CreateAccessToken(_ context.Context, request op.TokenRequest) (string, time.Time, error) {
	if machine, ok := request.(*oidc.JWTTokenRequest); ok {
		// So far it is the assertion's audience: this provider.
		machine.Audience = s.audience(machine.Subject, machine.Scopes)
	}
	one, err := s.account(request.GetSubject())
	if err != nil {
		return "", time.Time{}, oidc.ErrInvalidGrant().WithDescription("the account is gone")
	}
	lifetime := s.lifetime
	if one.LifetimeSeconds != 0 {
		lifetime = time.Duration(one.LifetimeSeconds) * time.Second
	}
	return rand.Text(), time.Now().Add(lifetime), nil
}

func (s *store) GetPrivateClaimsFromScopes(_ context.Context, id, _ string, _ []string) (map[string]any, error) {
	return map[string]any{rolesClaim: s.roles(id)}, nil
}

func (s *store) SetUserinfoFromRequest(_ context.Context, info *oidc.UserInfo, request op.IDTokenRequest, _ []string) error {
	info.Subject = request.GetSubject()
	info.AppendClaims(rolesClaim, s.roles(request.GetSubject()))
	return nil
}

// refreshRequest is what a refresh token stands for.
type refreshRequest struct {
	op.DeviceAuthorizationState
}

func (r *refreshRequest) SetCurrentScopes(scopes []string) { r.Scopes = scopes }

func (s *store) CreateAccessAndRefreshTokens(ctx context.Context, request op.TokenRequest, used string) (string, string, time.Time, error) {
	id, expires, err := s.CreateAccessToken(ctx, request)
	if err != nil {
		return "", "", time.Time{}, err
	}
	next := &refreshRequest{}
	switch request := request.(type) {
	case *op.DeviceAuthorizationState:
		next.DeviceAuthorizationState = *request
	case *refreshRequest:
		*next = *request
	default:
		return "", "", time.Time{}, fmt.Errorf("no refresh token for %T", request)
	}
	token := rand.Text()
	s.mu.Lock()
	defer s.mu.Unlock()
	// Each is good once.
	delete(s.refresh, used)
	s.refresh[token] = next
	return id, token, expires, nil
}

func (s *store) TokenRequestByRefreshToken(_ context.Context, token string) (op.RefreshTokenRequest, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	known, ok := s.refresh[token]
	if !ok {
		return nil, op.ErrInvalidRefreshToken
	}
	copied := *known
	return &copied, nil
}

// Device flow.

// GetDeviceAuthorizatonState gives a copy: the form may change the original meanwhile.
func (s *store) GetDeviceAuthorizatonState(ctx context.Context, id, code string) (*op.DeviceAuthorizationState, error) {
	s.mu.Lock()
	state, err := s.Storage.GetDeviceAuthorizatonState(ctx, id, code)
	if err != nil {
		s.mu.Unlock()
		return nil, err
	}
	copied := *state
	s.mu.Unlock()
	copied.Audience = s.audience(copied.Subject, copied.Scopes)
	return &copied, nil
}

// decide takes the form: user_code, account, decision (approve or deny).
func (s *store) decide(w http.ResponseWriter, r *http.Request) {
	code, id := r.PostFormValue("user_code"), r.PostFormValue("account")
	_, err := s.account(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, unknown := s.GetDeviceAuthorizationByUserCode(r.Context(), code); unknown != nil {
		answer(w, unknown)
	} else if r.PostFormValue("decision") == "deny" {
		answer(w, s.DenyDeviceAuthorization(r.Context(), code))
	} else if err != nil {
		answer(w, err)
	} else {
		answer(w, s.CompleteDeviceAuthorization(r.Context(), code, id))
	}
}

func publicKey(text string) (any, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, errors.New("not PEM")
	}
	return x509.ParsePKIXPublicKey(block.Bytes)
}

func answer(w http.ResponseWriter, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}
