// Command secret-store is a secret store for scenarios: Vault 1.14.0, the last
// line under the MPL-2.0, which OpenBao forked from. Where `bao` is on PATH (or
// named by $BAO_BIN), the scenarios take that instead and say so.
//
// It is a test server: plain HTTP and HTTPS at once, no memory lock. It starts
// sealed; a test initializes and unseals it over its API.
//
// go.mod is kept as it is: `go mod tidy` would jump to a version under another
// licence.
package main

import (
	"errors"
	"flag"
	"log"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/hashicorp/go-hclog"
	jwt "github.com/hashicorp/vault-plugin-auth-jwt"
	k8s "github.com/hashicorp/vault-plugin-auth-kubernetes"
	kv "github.com/hashicorp/vault-plugin-secrets-kv"
	"github.com/hashicorp/vault/audit"
	auditFile "github.com/hashicorp/vault/builtin/audit/file"
	"github.com/hashicorp/vault/builtin/credential/approle"
	"github.com/hashicorp/vault/builtin/credential/userpass"
	vaulthttp "github.com/hashicorp/vault/http"
	"github.com/hashicorp/vault/internalshared/configutil"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/physical"
	physFile "github.com/hashicorp/vault/sdk/physical/file"
	"github.com/hashicorp/vault/sdk/physical/inmem"
	"github.com/hashicorp/vault/vault"
)

func main() {
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

func run() error {
	listen := flag.String("listen", "127.0.0.1:8200", "address for plain HTTP")
	tlsListen := flag.String("tls-listen", "", "address for HTTPS, with --tls-cert and --tls-key; empty: none")
	cert := flag.String("tls-cert", "", "certificate (PEM)")
	key := flag.String("tls-key", "", "its private key (PEM)")
	folder := flag.String("file", "", "folder of the storage; empty: in memory")
	limit := flag.Int64("max-request-size", 0, "largest request in bytes; 0: the server's default")
	level := flag.String("log-level", "warn", "trace, debug, info, warn or error")
	flag.Parse()

	logger := hclog.New(&hclog.LoggerOptions{Level: hclog.LevelFromString(*level), Output: os.Stderr})
	storage, err := newStorage(*folder, logger)
	if err != nil {
		return err
	}
	logins := map[string]logical.Factory{
		"approle": approle.Factory, "jwt": jwt.Factory, "kubernetes": k8s.Factory, "oidc": jwt.Factory,
		"userpass": userpass.Factory,
	}
	engines := map[string]logical.Factory{"kv": kv.Factory}
	core, err := vault.NewCore(&vault.CoreConfig{
		Physical:           storage,
		DisableMlock:       true,
		Logger:             logger,
		LogicalBackends:    engines,
		CredentialBackends: logins,
		AuditBackends:      map[string]audit.Factory{"file": auditFile.Factory},
		RedirectAddr:       "http://" + *listen,
		BuiltinRegistry:    registry{consts.PluginTypeSecrets: engines, consts.PluginTypeCredential: logins},
	})
	if err != nil {
		return err
	}

	ended := make(chan error, 2)
	serve := func(address string, serve func(*http.Server, net.Listener) error) error {
		listener, err := net.Listen("tcp", address)
		if err != nil {
			return err
		}
		server := &http.Server{
			Handler: vaulthttp.Handler.Handler(&vault.HandlerProperties{
				Core:           core,
				ListenerConfig: &configutil.Listener{Address: address, MaxRequestSize: *limit},
			}),
			ReadHeaderTimeout: 10 * time.Second,
		}
		log.Printf("listening on %s", listener.Addr())
		go func() { ended <- serve(server, listener) }()
		return nil
	}
	if err := serve(*listen, (*http.Server).Serve); err != nil {
		return err
	}
	if *tlsListen != "" {
		if *cert == "" || *key == "" {
			return errors.New("--tls-listen needs --tls-cert and --tls-key")
		}
		overTLS := func(server *http.Server, listener net.Listener) error {
			return server.ServeTLS(listener, *cert, *key)
		}
		if err := serve(*tlsListen, overTLS); err != nil {
			return err
		}
	}
	return <-ended
}

func newStorage(folder string, logger hclog.Logger) (physical.Backend, error) {
	if folder == "" {
		return inmem.NewInmem(nil, logger)
	}
	return physFile.NewFileBackend(map[string]string{"path": folder}, logger)
}

// registry says which plugins are built in.
type registry map[consts.PluginType]map[string]logical.Factory

func (r registry) Contains(name string, kind consts.PluginType) bool {
	_, ok := r[kind][name]
	return ok
}

func (r registry) Get(name string, kind consts.PluginType) (func() (interface{}, error), bool) {
	factory, ok := r[kind][name]
	return func() (interface{}, error) { return factory, nil }, ok
}

func (r registry) Keys(kind consts.PluginType) []string {
	var names []string
	for name := range r[kind] {
		names = append(names, name)
	}
	return names
}

func (r registry) DeprecationStatus(name string, kind consts.PluginType) (consts.DeprecationStatus, bool) {
	return consts.Supported, r.Contains(name, kind)
}
