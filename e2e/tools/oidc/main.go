// Command oidc is an OpenID provider for scenarios: Zitadel's own engine, with
// accounts that a test writes.
//
// It is a test server. Anybody who reaches it can approve a login, and whoever
// reaches the admin address can do everything.
//
//	public  discovery, keys, token endpoint (JWT profile, client credentials,
//	        device flow, refresh), and /device, where a login is approved
//	admin   POST /accounts            adds or changes an account (JSON, see account)
//	        POST /keys?account=ID     a new key of a machine: answers the JSON key file
//	        POST /rotate              a new signing key; ?algorithm=ES256, ?forget=true
//	                                  drops the old ones from the key set at once
//	        POST /sign                signs the claims in the body, whatever they say; ?kid=ID names
//	                                  another key than the one that signs
//	        POST /hang?keys=true      the key set does not answer; =false ends it
//	        POST /away?on=true        nothing answers: connections are closed
package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"html/template"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/zitadel/oidc/v3/pkg/op"
)

func main() {
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

func run() error {
	issuer := flag.String("issuer", "", "URL that tokens have in `iss`, e.g. https://10.0.0.1:8443")
	listen := flag.String("listen", "127.0.0.1:0", "public address")
	admin := flag.String("admin", "127.0.0.1:0", "admin address; keep it on loopback")
	cert := flag.String("tls-cert", "", "certificate (PEM); without it plain HTTP")
	key := flag.String("tls-key", "", "private key of the certificate (PEM)")
	accounts := flag.String("accounts", "", "file with a JSON array of accounts")
	algorithm := flag.String("algorithm", "RS256", "RS256, ES256 or EdDSA")
	client := flag.String("client", "fleet", "public client of the device flow")
	lifetime := flag.Duration("token-lifetime", 5*time.Minute, "of access tokens, when an account says nothing")
	codes := flag.Duration("code-lifetime", 5*time.Minute, "of device codes")
	interval := flag.Duration("poll-interval", time.Second, "of device codes")
	flag.Parse()
	if *issuer == "" {
		return errors.New("--issuer is missing")
	}

	store, err := newStore(*algorithm, *client, *lifetime)
	if err != nil {
		return err
	}
	if *accounts != "" {
		text, err := os.ReadFile(*accounts)
		if err != nil {
			return err
		}
		var all []account
		if err := json.Unmarshal(text, &all); err != nil {
			return fmt.Errorf("%s: %w", *accounts, err)
		}
		for _, one := range all {
			if err := store.put(one); err != nil {
				return err
			}
		}
	}

	config := &op.Config{
		AuthMethodPost:        true,
		CodeMethodS256:        true,
		GrantTypeRefreshToken: true,
		DeviceAuthorization: op.DeviceAuthorizationConfig{
			Lifetime:     *codes,
			PollInterval: *interval,
			UserFormPath: "/device",
			UserCode:     op.UserCodeBase20,
		},
	}
	if _, err := rand.Read(config.CryptoKey[:]); err != nil {
		return err
	}
	provider, err := op.NewProvider(config, store, op.StaticIssuer(*issuer), op.WithAllowInsecure())
	if err != nil {
		return err
	}

	var mood mood
	public := http.NewServeMux()
	public.Handle("/", provider)
	public.HandleFunc("GET /device", form)
	public.HandleFunc("POST /device", store.decide)
	control := http.NewServeMux()
	control.HandleFunc("POST /accounts", store.putAccount)
	control.HandleFunc("POST /keys", store.registerKey)
	control.HandleFunc("POST /rotate", store.rotateKeys)
	control.HandleFunc("POST /sign", store.signClaims)
	control.HandleFunc("POST /hang", toggle(&mood.keysHang, "keys"))
	control.HandleFunc("POST /away", toggle(&mood.away, "on"))

	publicListener, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	adminListener, err := net.Listen("tcp", *admin)
	if err != nil {
		return err
	}
	log.Printf("issuer %s, public %s, admin %s", *issuer, publicListener.Addr(), adminListener.Addr())

	ended := make(chan error, 2)
	servers := []*http.Server{{Handler: mood.wrap(public)}, {Handler: control}}
	go func() {
		if *cert == "" {
			ended <- servers[0].Serve(publicListener)
		} else {
			ended <- servers[0].ServeTLS(publicListener, *cert, *key)
		}
	}()
	go func() { ended <- servers[1].Serve(adminListener) }()

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		for _, server := range servers {
			_ = server.Close()
		}
		return nil
	}
}

// mood is how the provider misbehaves right now.
type mood struct{ keysHang, away atomic.Bool }

func (m *mood) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		log.Printf("%s %s", r.Method, r.URL.Path)
		switch {
		case m.away.Load():
			// No answer, no status: the connection is closed.
			panic(http.ErrAbortHandler)
		case m.keysHang.Load() && r.URL.Path == "/keys":
			<-r.Context().Done()
		default:
			next.ServeHTTP(w, r)
		}
	})
}

func toggle(value *atomic.Bool, name string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		value.Store(r.FormValue(name) == "true")
		w.WriteHeader(http.StatusNoContent)
	}
}

var page = template.Must(template.New("device").Parse(`<!doctype html><title>Device login</title>
<form method="post">
<p><label>Code <input name="user_code" value="{{.}}"></label>
<p><label>Account <input name="account"></label>
<p><button name="decision" value="approve">Approve</button> <button name="decision" value="deny">Deny</button>
</form>`))

func form(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_ = page.Execute(w, r.FormValue("user_code"))
}
