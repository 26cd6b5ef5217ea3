"""The pairs of :mod:`.pairs` that more than 2 % of the simulator's runs meet, counted in 420 runs: table, event, states."""

PAIRS = """
fault | cancel unstarted | a task is assigned; a task is done; a worker is away
fault | clear | a client is away; a task is assigned; a task is done; a task is waiting; a worker is away
fault | client dies | a client is away; a task is assigned; a task is done; a task is failed; a task is waiting
fault | client dies | a worker is away; writing
fault | client leaves | a client is away; a task is assigned; a task is done; a task is failed; a task is ready
fault | client leaves | a task is waiting; a worker is away; writing
fault | cut | a client is away; a task is assigned; a task is done; a task is failed; a task is idle; a task is ready
fault | cut | a task is waiting; a worker is away; scheduler down
fault | cut client | a client is away; a task is assigned; a task is done; a task is failed; a task is ready
fault | cut client | a task is waiting; a worker is away
fault | cut greeting | a client is away; a task is assigned; a task is awaited; a task is done; a task is failed
fault | cut greeting | a task is idle; a task is ready; a task is waiting; a worker is away; a worker is suspect
fault | cut greeting | a worker retires; nothing to do; recovering; two schedulers; writing
fault | dismiss | a client is away; a task is assigned; a task is done; a task is waiting; a worker is away
fault | drift | a client is away; a task is assigned; a task is done; a task is failed; a task is waiting; a worker is away
fault | drift | writing
fault | echo | a client is away; a task is assigned; a task is done; a task is failed; a task is idle; a task is ready
fault | echo | a task is waiting; a worker is away; a worker retires; writing
fault | executor does not start | a client is away; a task is assigned; a task is done; a task is failed; a task is ready
fault | executor does not start | a task is waiting; a worker is away; nothing to do; writing
fault | failed write | a task is assigned; a task is done; a task is waiting; writing
fault | fenced | a client is away; a task is assigned; a task is done; a task is failed; a task is idle; a task is ready
fault | fenced | a task is waiting; a worker is away; scheduler down
fault | gap | a client is away; a task is assigned; a task is done; a task is failed; a task is ready; a task is waiting
fault | gap | writing
fault | given up | a client is away; a task is assigned; a task is done; a task is failed; a task is idle; a task is ready
fault | given up | a task is waiting; a worker is away; writing
fault | journal fails | a client is away; a task is assigned; a task is done; a task is waiting; a worker is away; writing
fault | kill executor | a client is away; a task is assigned; a task is done; a task is failed; a task is waiting
fault | kill executor | a worker is away
fault | kill scheduler | a client is away; a task is assigned; a task is awaited; a task is done; a task is failed
fault | kill scheduler | a task is idle; a task is ready; a task is waiting; a worker is away; a worker is suspect
fault | kill scheduler | recovering; scheduler down; writing
fault | kill worker | a client is away; a task is assigned; a task is done; a task is failed; a task is idle
fault | kill worker | a task is waiting; a worker is away
fault | leave | a client is away; a task is assigned; a task is done; a task is failed; a task is idle; a task is waiting
fault | leave | a worker is away; a worker retires
fault | logs | a task is done; a worker is away; scheduler down
fault | lose | a client is away; a task is assigned; a task is done; a task is failed; a task is ready; a task is waiting
fault | lose | a worker is away; writing
fault | lose file | a client is away; a task is assigned; a task is done; a task is failed; a task is waiting
fault | lose file | a worker is away
fault | memory | a client is away; a task is assigned; a task is done; a task is failed; a task is waiting; a worker is away
fault | one-way cut | a client is away; a task is assigned; a task is done; a task is failed; a task is waiting
fault | one-way cut | a worker is away
fault | park | a client is away; a task is assigned; a task is done; a task is failed; a task is waiting; a worker is away
fault | pause scheduler | a client is away; a task is assigned; a task is done; a task is failed; a task is waiting
fault | pause scheduler | a worker is away
fault | pause worker | a client is away; a task is assigned; a task is done; a task is failed; a task is ready
fault | pause worker | a task is waiting; a worker is away
fault | publish | a client is away; a task is assigned; a task is done; a task is failed; a task is ready; a task is waiting
fault | publish | writing
fault | rebalance | a client is away; a task is assigned; a task is done; a task is waiting; scheduler down
fault | redialed | a client is away; a task is assigned; a task is done; a task is failed; a task is waiting
fault | redialed | a worker is away; a worker is suspect; writing
fault | reorder | a client is away; a task is assigned; a task is done; a task is failed; a task is ready; a task is waiting
fault | reorder | a worker is away; writing
fault | repeat | a client is away; a task is assigned; a task is done; a task is failed; a task is ready; a task is waiting
fault | repeat | a worker is away; writing
fault | replicate | a client is away; a task is assigned; a task is done; a task is waiting; a worker is away; writing
fault | restart | a client is away; a task is assigned; a task is done; a task is ready; a task is waiting; a worker is away
fault | restart | writing
fault | retire | a client is away; a task is assigned; a task is done; a task is waiting; a worker is away
fault | retry | a client is away; a task is assigned; a task is done; a task is failed; a task is waiting; a worker is away
fault | silence | a client is away; a task is assigned; a task is done; a task is failed; a task is idle; a task is ready
fault | silence | a task is waiting; a worker is away; scheduler down; writing
fault | status | a task is assigned; a task is done; a worker is away; scheduler down
fault | stood down | a client is away; a task is awaited; a task is done; a task is waiting; recovering; two schedulers
fault | stop executor | a client is away; a task is assigned; a task is done; a task is failed; a task is waiting
fault | stop executor | a worker is away
fault | swallow | a client is away; a task is assigned; a task is done; a task is failed; a task is waiting; a worker is away
fault | take over | a task is assigned; a task is done; a task is waiting
fault | unpublish | a client is away; a task is assigned; a task is done; a task is waiting; a worker is away
fault | until_ended | a task is assigned; a task is done; a task is waiting; a worker is away; scheduler down
fault | upload | a client is away; a task is assigned; a task is done; a task is failed; a task is waiting; a worker is away
fault | upload | scheduler down
future | DropData | released
future | Erred | cancelled; error; finished; pending; released
future | Finished | error; finished; pending; released
future | Peer | unknown worker
future | PeerState | known worker
future | Supply | pending
greeting | HelloClient | known number; new
greeting | HelloWorker | awaited after a restart; known process; new; replaces another process
greeting | Resume | away; connected; read from the journal; unknown
job | Abort | given to an executor; queued; stored; unknown
job | Copy | unknown
job | Free | stored; unknown
job | Located | being fetched
job | Recall | given to an executor; queued; stored
job | Verify | stored
sender | Answered | as usual; recovering
sender | Beat | as usual; journal fails; recovering; retiring; suspect; told to stop
sender | Bye | as usual
sender | Cancel | as usual
sender | CopyFailed | as usual
sender | Crashed | as usual
sender | Done | as usual; retiring
sender | Failed | as usual
sender | Function | as usual; recovering
sender | Have | as usual
sender | InputLost | as usual
sender | Intake | as usual
sender | Inventory | as usual
sender | Leaving | as usual
sender | Left | told to stop
sender | Locate | as usual
sender | Missing | as usual
sender | NotSupplied | as usual
sender | Parked | as usual
sender | Query clear | as usual
sender | Query datasets | as usual
sender | Query demand | as usual
sender | Query dismiss | as usual
sender | Query end_session | as usual
sender | Query incidents | as usual
sender | Query keys | as usual
sender | Query logs | as usual
sender | Query publish | as usual
sender | Query rebalance | as usual
sender | Query replicate | as usual
sender | Query restart | as usual
sender | Query retire | as usual
sender | Query snapshot | as usual
sender | Query status | as usual
sender | Query unpublish | as usual
sender | Query until_ended | as usual
sender | Query upload | as usual; recovering
sender | Query workers | as usual
sender | Recalled | as usual; retiring
sender | Release | as usual; journal fails; recovering
sender | Rescued | as usual
sender | Retry | as usual
sender | Scatter | as usual
sender | Submit | as usual; recovering
sender | Unreachable | as usual
sender | WorkerLog | as usual
task | Cancel | assigned; done; ready; waiting
task | CopyFailed | done
task | Crashed | assigned
task | Done | assigned; done; forgotten
task | Failed | assigned
task | Have | awaited; done
task | Hello: finished | assigned; awaited; done; ready; waiting
task | Hello: stored | awaited; done; forgotten; ready; waiting
task | InputLost | assigned
task | Locate | done
task | Missing | done
task | NotSupplied | awaited
task | Parked | assigned
task | Recalled | assigned
task | Release | assigned; awaited; cancelled; done; failed; no future; ready; waiting
task | Retry | failed
task | Scatter | no future
task | Submit | assigned; awaited; cancelled; done; failed; key: assigned; key: done; key: failed; key: ready; key: waiting
task | Submit | ready; waiting
task | Unreachable | done
transition | accepted | idle
transition | adopted | ready
transition | broken | idle
transition | ended | assigned; awaited; ready; waiting
transition | freed | done
transition | inputs there | waiting
transition | lost | done
transition | paused | idle
transition | placed | ready
transition | read awaited | idle
transition | read done | idle
transition | read failed | idle
transition | read waiting | idle
transition | retried | failed
transition | sent ahead | waiting
transition | to be supplied | idle
transition | unclaimed | awaited
transition | wanted | idle
worker | Abort | as usual
worker | Audit | as usual
worker | Compute | as usual
worker | Copy | as usual
worker | ForgetFunctions | as usual
worker | Free | as usual; renewing executors; short of memory
worker | Install | as usual
worker | Located | as usual
worker | Peer | as usual
worker | PeerState | as usual
worker | ReadLog | as usual
worker | Recall | as usual
worker | Renew | as usual
worker | Rescue | as usual
worker | Stop | as usual
worker | Verify | as usual
worker | WorkerFunction | as usual
"""
