import nbd,os,random,subprocess,sys,time,signal
seed=int(sys.argv[1]); rounds=int(sys.argv[2]); mode=sys.argv[3]; C=sys.argv[4]
rnd=random.Random(seed)
B=4096; N=16*1024*1024//B
def cairn(*a):
    p=subprocess.run([C,*a],capture_output=True,text=True)
    if p.returncode: print("FAILED seed",seed,a,p.stderr); sys.exit(1)
    return p.stdout.strip()
d=os.getcwd()
def sh(x): subprocess.run(x,shell=True,check=True)
sh("truncate -s 16M backing.img; truncate -s 8M cache.img")
cairn("format-cache","--target","ssdcache","--backing","backing.img","--blocksize","16","--yes","cache.img")
table="0 32768 ssdcache backing.img cache.img blocksize 16 %s options 2 evict_on_write queue_busy"%mode
durable=[0]*N      # last flushed version
maybe=[[0] for _ in range(N)]  # possible versions now
ver=0; hits=0
def block(i,v): return (b"\0"*B) if v==0 else (b"%016d%016d"%(i,v))*(B//32)
for r in range(rounds):
    cairn("create","k","--table",table)
    uri=cairn("info","-c","--noheadings","-o","uri","k"); pid=int(cairn("info","-c","--noheadings","-o","pid","k"))
    h=nbd.NBD(); h.connect_uri(uri)
    # verify everything twice
    for p in range(2):
        for i in range(0,N):
            if p==1 and rnd.random()<0.7: continue
            got=h.pread(B,i*B)
            ok=[v for v in maybe[i] if block(i,v)==bytes(got)]
            if not ok: print("VIOLATION seed",seed,"round",r,"block",i,"allowed",maybe[i][-5:],"got",bytes(got[:40])); sys.exit(1)
            maybe[i]=[ok[0]]; durable[i]=ok[0]
    s=cairn("status","k"); hits+=int(s.split("clean ")[1].split()[0])
    end=time.time()+rnd.uniform(0.05,1.6)
    while time.time()<end:
        x=rnd.random(); i=int(N*rnd.random()**3)
        if x<0.55:
            ver+=1; maybe[i].append(ver); h.pwrite(block(i,ver),i*B); maybe[i]=[*maybe[i]]
        elif x<0.6:
            h.flush()
            for j in range(N):
                maybe[j]=[maybe[j][-1]]
        elif x<0.63:
            n=min(8,N-i)
            # discard: content undefined between old and zero
            h.zero(n*B,i*B)
            for j in range(i,i+n): maybe[j].append(0)
        else:
            got=bytes(h.pread(B,i*B))
            if got!=block(i,maybe[i][-1]): print("STALE READ seed",seed,"round",r,"block",i,maybe[i][-5:],got[:40]); sys.exit(1)
    # The next create comes at once: it waits for the locks of one that was killed.
    os.kill(pid,signal.SIGKILL)
    # SIGKILL loses nothing answered, for the page cache lives. In write-back an answered write that was not flushed may be lost:
    # its data stands in the cache, the entry that says so was still in memory.
    if mode!="writeback":
        for j in range(N): maybe[j]=[maybe[j][-1]]
    try: h.close()
    except: pass
print("ok seed",seed,"rounds",rounds,"writes",ver,"hits",hits)
